//! The way from a mirror to its source: seen, and broken where a test wants it.

use std::ops::Deref;

use tokio::runtime::{Builder, Runtime};

use super::Mirrored;
use crate::support::fault_proxy::FaultProxy;

pub struct Wire {
    pub proxy: FaultProxy,
    runtime: Runtime,
}

impl Wire {
    /// Between the mirror and its source from now on.
    pub fn before(mirrored: &Mirrored) -> Wire {
        let wire = Wire::to("127.0.0.1", mirrored.source.0.port);
        mirrored.follow(&wire.reference("team/app"));
        wire
    }

    /// On an address of this machine, to a port of it.
    pub fn to(address: &str, port: u16) -> Wire {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let proxy = runtime.block_on(FaultProxy::at(address, port));
        Wire { proxy, runtime }
    }

    /// Another one beside it.
    pub fn beside(&self, address: &str, port: u16) -> FaultProxy {
        self.runtime.block_on(FaultProxy::at(address, port))
    }

    /// `host:port/path`, as a mirror has it.
    pub fn reference(&self, path: &str) -> String {
        format!("127.0.0.1:{}/{path}", self.proxy.port)
    }

    /// Digests of the blobs that were asked for since there were `from` requests, in order.
    pub fn blobs(&self, from: usize) -> Vec<String> {
        blobs(&self.proxy, from)
    }

    /// Requests so far.
    pub fn len(&self) -> usize {
        self.proxy.seen("")
    }
}

/// Digests of the blobs that a proxy was asked for since there were `from` requests, in order.
pub fn blobs(proxy: &FaultProxy, from: usize) -> Vec<String> {
    let heads = proxy.heads();
    let digest = |head: &String| {
        let path = head.strip_prefix("GET ")?.split(' ').next()?;
        path.split_once("/blobs/").map(|(_, digest)| digest.to_owned())
    };
    heads[from..].iter().filter_map(digest).collect()
}

impl Deref for Wire {
    type Target = FaultProxy;

    fn deref(&self) -> &FaultProxy {
        &self.proxy
    }
}
