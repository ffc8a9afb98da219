//! Faults of an object storage.

use crate::support::fault_proxy::Fault;

pub const SLOW_DOWN: Fault =
    Fault::Answer("503 Slow Down", "", "<Error><Code>SlowDown</Code><Message>No</Message></Error>");

pub const LATE_ERROR: Fault =
    Fault::Answer("200 OK", "", "<Error><Code>InternalError</Code><Message>No</Message></Error>");

pub const FULL: Fault = Fault::Answer(
    "507 Insufficient Storage",
    "",
    "<Error><Code>XMinioStorageFull</Code><Message>No</Message></Error>",
);

pub const NO_UPLOAD: Fault = Fault::Answer(
    "404 Not Found",
    "",
    "<Error><Code>NoSuchUpload</Code><Message>No</Message></Error>",
);
