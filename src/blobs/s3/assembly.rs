//! A blob under its final path, made of the chunks of an upload.
//!
//! Where the storage can do it the bytes stay there: one chunk is copied, several become the parts
//! of a new object. Chunks that are too small for parts, and storages that cannot copy into parts,
//! need the bytes to come by here (contract §5.4).

use std::ops::Range;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::chunks::{Chunk, Chunks};
use super::client::Client;
use super::error::{Fault, S3Error};
use super::operations::Kind;
use super::reader::Reader;
use super::request::Payload;
use super::writer::{MOST_PARTS, Multipart, Writer};
use crate::config::S3Uploads;

/// Bytes that are copied with one request, unless a blob is so large that these are too many.
const PIECE: u64 = 64 * 1024 * 1024;

/// Requests that one upload makes at a time.
const REQUESTS: usize = 8;

/// The most that can be copied without parts.
const LARGEST_COPY: u64 = 5 << 30;

/// Puts the blob at `key`. It is there whole, or not at all.
pub(super) async fn assemble(client: &Client, chunks: &Chunks, key: &str) -> Result<(), S3Error> {
    // Quay leaves nothing here, which makes an empty blob one that cannot be read.
    if chunks.as_slice().is_empty() {
        return client.put(key, Kind::Joined, Payload::new(Bytes::new())).await;
    }
    let outcome = match lengths(client, chunks).await {
        Ok(lengths) => put_together(client, chunks, &lengths, key).await,
        Err(error) => Err(error),
    };
    match outcome {
        // Somebody may have put it there before, and removed the chunks.
        Err(error) if matches!(error.fault, Fault::Missing | Fault::Length) => {
            match client.length(key).await? {
                Some(length) if length == chunks.length() => Ok(()),
                _ => Err(error),
            }
        }
        outcome => outcome,
    }
}

/// How long the objects are: as long as was recorded, or longer.
async fn lengths(client: &Client, chunks: &Chunks) -> Result<Vec<u64>, S3Error> {
    let looks = chunks.as_slice().iter().map(|chunk| async move {
        let key = client.key(&chunk.path());
        let found = client.length(&key).await?;
        let (fault, reason) = match found {
            Some(found) if found >= chunk.length => return Ok(found),
            Some(found) => {
                (Fault::Length, format!("it has {found} bytes instead of {}", chunk.length))
            }
            None => (Fault::Missing, "it is gone".to_owned()),
        };
        Err(S3Error { operation: "look for", key, fault, reason })
    });
    stream::iter(looks).buffered(REQUESTS).try_collect().await
}

async fn put_together(
    client: &Client,
    chunks: &Chunks,
    lengths: &[u64],
    key: &str,
) -> Result<(), S3Error> {
    let uploads = client.storage().uploads;
    let limit = match uploads.server_side_assembly {
        true => PIECE.min(uploads.maximum_chunk_size),
        false => LARGEST_COPY,
    };
    match chunks.as_slice() {
        // Such a copy takes all there is.
        [chunk] if chunk.length <= limit && lengths == [chunk.length] => {
            client.copy(&client.key(&chunk.path()), key, chunk.length).await
        }
        _ => match pieces(chunks, &uploads) {
            Some(pieces) => copied(client, chunks, pieces, key).await,
            None => joined(client, chunks, key).await,
        },
    }
}

/// By the storage.
async fn copied(
    client: &Client,
    chunks: &Chunks,
    pieces: Vec<Piece>,
    key: &str,
) -> Result<(), S3Error> {
    let kind = if chunks.as_slice().len() == 1 { Kind::Copied } else { Kind::Joined };
    let upload = Multipart::begin(client.clone(), key.to_owned(), kind).await?;
    let copies = pieces.into_iter().enumerate().map(|(position, piece)| {
        let upload = &upload;
        async move {
            let source = client.key(&piece.chunk.path());
            client.copy_part(key, &upload.id, position + 1, (&source, piece.bytes)).await
        }
    });
    let parts: Vec<_> = stream::iter(copies).buffered(REQUESTS).try_collect().await?;
    upload.end(&parts, chunks.length()).await
}

/// By us.
async fn joined(client: &Client, chunks: &Chunks, key: &str) -> Result<(), S3Error> {
    let objects = chunks.as_slice().iter().map(|chunk| (client.key(&chunk.path()), chunk.length));
    let mut reader = Reader::new(client, objects);
    let mut writer = Writer::new(client, key.to_owned(), Kind::Joined);
    while let Some(bytes) = reader.next().await? {
        writer.write(bytes).await?;
    }
    writer.finish().await
}

/// Bytes of a chunk.
#[derive(Debug, PartialEq, Eq)]
struct Piece {
    chunk: Chunk,
    bytes: Range<u64>,
}

/// The parts that the storage can copy, or `None` where it cannot.
fn pieces(chunks: &Chunks, uploads: &S3Uploads) -> Option<Vec<Piece>> {
    let (last, before) = chunks.as_slice().split_last()?;
    let small = before.iter().any(|chunk| chunk.length < uploads.minimum_chunk_size);
    if small || !uploads.server_side_assembly {
        return None;
    }
    // Half of the parts there may be, since every chunk can add one that is not full.
    let enough = chunks.length().div_ceil(MOST_PARTS as u64 / 2);
    let largest = PIECE.max(enough).min(uploads.maximum_chunk_size);
    let pieces: Vec<Piece> =
        before.iter().chain([last]).flat_map(|chunk| split(*chunk, largest)).collect();
    (pieces.len() <= MOST_PARTS).then_some(pieces)
}

/// In equal pieces: none is less than half of what is allowed.
fn split(chunk: Chunk, largest: u64) -> impl Iterator<Item = Piece> {
    let count = chunk.length.div_ceil(largest);
    let start =
        move |piece: u64| (u128::from(chunk.length) * u128::from(piece) / u128::from(count)) as u64;
    (0..count).map(move |piece| Piece { chunk, bytes: start(piece)..start(piece + 1) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    const UPLOADS: S3Uploads = S3Uploads {
        encrypted: false,
        minimum_chunk_size: 5 * MIB,
        maximum_chunk_size: 100 * MIB,
        server_side_assembly: true,
    };

    fn lengths(chunks: &[u64], uploads: &S3Uploads) -> Option<Vec<u64>> {
        let mut all = Chunks::default();
        for length in chunks {
            all.push(Chunk::new(*length)).unwrap();
        }
        let pieces = pieces(&all, uploads)?;
        // Every byte of every chunk, once and in order.
        for chunk in all.as_slice() {
            let mut end = 0;
            for piece in pieces.iter().filter(|piece| piece.chunk == *chunk) {
                assert_eq!(piece.bytes.start, end);
                end = piece.bytes.end;
            }
            assert_eq!(end, chunk.length);
        }
        Some(pieces.iter().map(|piece| piece.bytes.end - piece.bytes.start).collect())
    }

    #[test]
    fn what_the_storage_can_put_together() {
        assert_eq!(lengths(&[5 * MIB, 1], &UPLOADS), Some(vec![5 * MIB, 1]));
        assert_eq!(lengths(&[5 * MIB - 1, 1], &UPLOADS), None);
        let far = S3Uploads { server_side_assembly: false, ..UPLOADS };
        assert_eq!(lengths(&[5 * MIB, 1], &far), None);
        let large = 5 * MIB + 3 * PIECE + 1;
        assert_eq!(lengths(&[large], &UPLOADS).unwrap().len(), 4);
        // As large as objects get.
        let huge = S3Uploads { maximum_chunk_size: 5 << 30, ..UPLOADS };
        let pieces = lengths(&[5 << 40], &huge).unwrap();
        assert!(pieces.len() <= MOST_PARTS && pieces.iter().all(|piece| *piece < 5 << 30));
        // With pieces that stay small there are too many.
        assert_eq!(lengths(&[5 << 40], &UPLOADS), None);
    }

    #[test]
    fn no_piece_is_too_small_for_a_part() {
        let smallest = S3Uploads { maximum_chunk_size: 10 * MIB, ..UPLOADS };
        for length in [10 * MIB, 10 * MIB + 1, 11 * MIB, 20 * MIB + 1, 99 * MIB] {
            let pieces = lengths(&[length, 5 * MIB], &smallest).unwrap();
            assert!(pieces.iter().all(|piece| *piece >= 5 * MIB && *piece <= 10 * MIB));
        }
    }
}
