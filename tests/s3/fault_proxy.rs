//! Faults of an object storage.

use crate::support::fault_proxy::Fault;

macro_rules! error {
    ($status:literal, $code:literal) => {
        Fault::Answer(
            $status,
            "",
            concat!("<Error><Code>", $code, "</Code><Message>No</Message></Error>"),
        )
    };
}

pub const SLOW_DOWN: Fault = error!("503 Slow Down", "SlowDown");

pub const INTERNAL: Fault = error!("500 Internal Server Error", "InternalError");

pub const LATE_ERROR: Fault = error!("200 OK", "InternalError");

pub const FULL: Fault = error!("507 Insufficient Storage", "XMinioStorageFull");

pub const NO_UPLOAD: Fault = error!("404 Not Found", "NoSuchUpload");
