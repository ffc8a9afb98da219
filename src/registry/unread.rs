//! Bodies of requests that are answered before they are through.
//!
//! The server closes a connection whose body nobody has read to its end, and says so (`Connection:
//! close`), unless that is chunked and was dropped: such a body it reads on, without a limit, and the
//! client hears nothing. So a chunked body is kept until its answer is sent.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use actix_web::HttpMessage as _;
use actix_web::dev::{Payload, ServiceRequest};
use actix_web::error::PayloadError;
use bytes::Bytes;
use futures_util::Stream;

/// A body that its reader has dropped, or will.
pub(super) struct Unread {
    _body: Rc<RefCell<Payload>>,
}

impl Unread {
    /// Of a request whose body has no length.
    pub(super) fn of(request: &mut ServiceRequest) -> Option<Self> {
        match request.take_payload() {
            payload @ Payload::H1 { .. } if !has_length(request) => {
                let kept = Rc::new(RefCell::new(payload));
                let shared = Shared(kept.clone());
                request.set_payload(Payload::Stream { payload: Box::pin(shared) });
                Some(Self { _body: kept })
            }
            payload => {
                request.set_payload(payload);
                None
            }
        }
    }
}

fn has_length(request: &ServiceRequest) -> bool {
    request.headers().contains_key(actix_web::http::header::CONTENT_LENGTH)
}

/// What the reader gets.
struct Shared(Rc<RefCell<Payload>>);

impl Stream for Shared {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_next(context)
    }
}
