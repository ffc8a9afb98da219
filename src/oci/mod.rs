//! The pure values of the OCI distribution protocol, as Quay reads them: digests, repository
//! names, tags, media types, byte ranges. No I/O.

mod digest;
mod index;
mod media_type;
mod name;
mod range;
mod tag;

pub use digest::{Digest, EMPTY_LAYER};
pub use index::{amd64_linux, is_index};
pub use media_type::{Accept, is_schema1};
pub use name::{NameRules, RepoName};
pub use range::{ByteRange, Span};
pub use tag::is_tag;
