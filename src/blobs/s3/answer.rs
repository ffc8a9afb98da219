//! The XML that an object storage answers with.

use serde::{Deserialize, Serialize};

/// An answer by the name of its root; what is not needed of it is not read.
#[derive(Debug, Deserialize)]
pub(super) enum Answer {
    Error(ErrorAnswer),
    InitiateMultipartUploadResult(Initiated),
    CopyPartResult(Copied),
    CopyObjectResult(Done),
    CompleteMultipartUploadResult(Done),
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct ErrorAnswer {
    pub code: String,
    pub message: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Initiated {
    pub upload_id: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Copied {
    #[serde(rename = "ETag")]
    pub etag: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Done {}

impl Answer {
    /// A storage that takes its time may send white space before the document.
    pub fn parse(text: &str) -> Result<Self, quick_xml::DeError> {
        quick_xml::de::from_str(text.trim())
    }
}

/// A part that was stored, in the words of the request that puts all of them together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename = "Part", rename_all = "PascalCase")]
pub(super) struct Part {
    pub part_number: usize,
    #[serde(rename = "ETag")]
    pub etag: String,
}

/// The document that names all parts, in order.
pub(super) fn manifest(parts: &[Part]) -> Result<String, quick_xml::SeError> {
    #[derive(Serialize)]
    #[serde(rename = "CompleteMultipartUpload")]
    struct Complete<'a> {
        #[serde(rename = "@xmlns")]
        namespace: &'static str,
        #[serde(rename = "Part")]
        parts: &'a [Part],
    }
    let namespace = "http://s3.amazonaws.com/doc/2006-03-01/";
    quick_xml::se::to_string(&Complete { namespace, parts })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = r#"<?xml version="1.0" encoding="UTF-8"?>"#;
    const NAMESPACE: &str = r#"xmlns="http://s3.amazonaws.com/doc/2006-03-01/""#;

    #[test]
    fn answers() {
        let started = format!(
            "{HEAD}\n<InitiateMultipartUploadResult {NAMESPACE}><Bucket>b</Bucket><Key>k</Key>\
             <UploadId>a&amp;b</UploadId></InitiateMultipartUploadResult>"
        );
        match Answer::parse(&started).unwrap() {
            Answer::InitiateMultipartUploadResult(found) => assert_eq!(found.upload_id, "a&b"),
            other => panic!("{other:?}"),
        }
        let copied = format!(
            "{HEAD}<CopyPartResult {NAMESPACE}><LastModified>2026-11-24T12:00:00.000Z\
             </LastModified><ETag>&quot;9b&quot;</ETag></CopyPartResult>"
        );
        match Answer::parse(&copied).unwrap() {
            Answer::CopyPartResult(found) => assert_eq!(found.etag, "\"9b\""),
            other => panic!("{other:?}"),
        }
        let slow = format!(
            "  \n {HEAD}\n<Error><Code>InternalError</Code><Message>Again.</Message>\
             <RequestId>1</RequestId></Error>"
        );
        match Answer::parse(&slow).unwrap() {
            Answer::Error(found) => {
                assert_eq!((&*found.code, &*found.message), ("InternalError", "Again."))
            }
            other => panic!("{other:?}"),
        }
        let done = format!(
            "{HEAD}<CompleteMultipartUploadResult {NAMESPACE}><Location>x</Location>\
             <ETag>\"1-2\"</ETag></CompleteMultipartUploadResult>"
        );
        assert!(matches!(Answer::parse(&done), Ok(Answer::CompleteMultipartUploadResult(_))));
        for bad in ["", "<html><body>no</body></html>", "<Error><Code>x", "<CopyPartResult/>"] {
            assert!(Answer::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_list_of_parts() {
        let part = |part_number, etag: &str| Part { part_number, etag: etag.to_owned() };
        let text = manifest(&[part(1, "\"a<\""), part(2, "b")]).unwrap();
        assert_eq!(
            text,
            format!(
                "<CompleteMultipartUpload {NAMESPACE}>\
                 <Part><PartNumber>1</PartNumber><ETag>\"a&lt;\"</ETag></Part>\
                 <Part><PartNumber>2</PartNumber><ETag>b</ETag></Part>\
                 </CompleteMultipartUpload>"
            )
        );
    }
}
