//! Blobs in a bucket: Quay's drivers for the S3 family.
//!
//! From the bottom: `sign` makes the two signatures, `client` sends one request until it is
//! answered, `operations` are the few requests there are, `writer` and `reader` move objects of any
//! size, `chunks` is what a row knows of an upload, `assembly` makes a blob of it.

mod answer;
mod assembly;
mod chunks;
mod client;
mod error;
mod operations;
mod presigned;
mod reader;
mod request;
mod sign;
mod uploads;
mod writer;

pub use client::Patience;
pub use presigned::presigned;
pub use uploads::{BucketAppender, BucketUploads};

/// Python's `os.path.join`: an empty prefix adds no slash.
fn key(prefix: &str, path: &str) -> String {
    match prefix {
        "" => path.to_owned(),
        prefix if prefix.ends_with('/') => format!("{prefix}{path}"),
        prefix => format!("{prefix}/{path}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_joined_as_python_does() {
        for (prefix, expected) in
            [("", "sha256/a"), ("x", "x/sha256/a"), ("x/y/", "x/y/sha256/a"), ("/", "/sha256/a")]
        {
            assert_eq!(key(prefix, "sha256/a"), expected);
        }
    }
}
