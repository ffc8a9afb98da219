//! Objects as streams of bytes.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};
use reqwest::{Method, Response};

use super::client::{Client, Tries};
use super::error::{Fault, S3Error};
use super::request::Request;

/// Objects one after the other; a connection that breaks is made again where it broke.
pub(super) struct Reader {
    client: Client,
    /// Keys, and how many bytes are wanted of each.
    objects: VecDeque<(String, u64)>,
    open: Option<Open>,
}

/// The object that is being read.
struct Open {
    key: String,
    rest: Range<u64>,
    tries: Tries,
    answer: Option<(Request, Response)>,
}

impl Reader {
    pub fn new(client: &Client, objects: impl IntoIterator<Item = (String, u64)>) -> Self {
        Self { client: client.clone(), objects: objects.into_iter().collect(), open: None }
    }

    /// The next bytes, in order; none after the last.
    pub async fn next(&mut self) -> Result<Option<Bytes>, S3Error> {
        loop {
            let open = match &mut self.open {
                Some(open) if !open.rest.is_empty() => open,
                open => {
                    let Some((key, length)) = self.objects.pop_front() else { return Ok(None) };
                    let tries = self.client.tries(length);
                    open.insert(Open { key, rest: 0..length, tries, answer: None })
                }
            };
            match open.next(&self.client).await {
                Ok(Some(bytes)) => return Ok(Some(bytes)),
                // A body that ended early is broken too.
                Ok(None) => open.answer = None,
                Err(error) if error.fault == Fault::Storage && open.tries.again(&error).await => {
                    open.answer = None;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// As a stream, from its first error on at an end.
    pub fn stream(self) -> impl Stream<Item = Result<Bytes, S3Error>> + Send + use<> {
        stream::try_unfold(self, |mut reader| async move {
            Ok(reader.next().await?.map(|bytes| (bytes, reader)))
        })
    }
}

impl Open {
    async fn next(&mut self, client: &Client) -> Result<Option<Bytes>, S3Error> {
        let (request, response) = match &mut self.answer {
            Some(answer) => answer,
            none => {
                let request = Client::get(&self.key, &self.rest);
                let response = client.opened(&request, &self.rest).await?;
                none.insert((request, response))
            }
        };
        let bytes = client.next(request, response).await?;
        self.rest.start += bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
        Ok(bytes)
    }
}

/// An object of at most that many bytes, if it is there.
pub(super) async fn whole(
    client: &Client,
    key: &str,
    most: usize,
) -> Result<Option<Bytes>, S3Error> {
    let request = Request::new("get", Method::GET, key);
    let mut tries = client.tries(most as u64);
    loop {
        match whole_once(client, &request, most).await {
            Err(error) if error.fault == Fault::Storage && tries.again(&error).await => {}
            Err(error) if error.fault == Fault::Missing => return Ok(None),
            outcome => return outcome.map(Some),
        }
    }
}

async fn whole_once(client: &Client, request: &Request, most: usize) -> Result<Bytes, S3Error> {
    let mut response = client.open(request).await?;
    let mut whole = BytesMut::new();
    while let Some(bytes) = client.next(request, &mut response).await? {
        if whole.len() + bytes.len() > most {
            let reason = format!("it has more than {most} bytes");
            return Err(super::client::failed(request, Fault::Length, reason));
        }
        whole.extend_from_slice(&bytes);
    }
    Ok(whole.freeze())
}
