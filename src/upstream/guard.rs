//! Names are resolved here, once for each connection, and the connection goes to an address that
//! was judged: what a name says the next time (DNS rebinding) is judged then.

use std::net::SocketAddr;
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::AllowedHosts;

/// Addresses of one name that are looked at.
const MOST_ADDRESSES: usize = 64;

/// Resolves names to addresses that may be connected to.
pub(super) struct Guard {
    lookup: Arc<dyn Resolve>,
    allowed: AllowedHosts,
    whose: Whose,
}

/// Whose names it resolves.
#[derive(Clone, Copy)]
pub(super) enum Whose {
    /// Registries, and where they send us.
    Sources,
    /// The one proxy.
    Proxies,
}

impl Guard {
    pub fn new(lookup: Arc<dyn Resolve>, allowed: &AllowedHosts, whose: Whose) -> Self {
        Self { lookup, allowed: allowed.clone(), whose }
    }
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let host = name.as_str().to_owned();
        let (found, allowed, whose) = (self.lookup.resolve(name), self.allowed.clone(), self.whose);
        Box::pin(async move {
            let found: Vec<SocketAddr> = found.await?.take(MOST_ADDRESSES).collect();
            let addresses: Vec<_> = found.iter().map(SocketAddr::ip).collect();
            match whose {
                Whose::Sources => allowed.judge(&host, &addresses)?,
                Whose::Proxies => allowed.judge_proxy(&host, &addresses)?,
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// The system's resolver.
pub(super) struct System;

impl Resolve for System {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found: Vec<SocketAddr> =
                tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::super::exchange::Client;
    use super::super::{Fault, Options, Source, SourceName};
    use super::*;

    /// Answers the next of its lists each time.
    struct Swapped(Mutex<Vec<&'static [&'static str]>>);

    impl Resolve for Swapped {
        fn resolve(&self, _: Name) -> Resolving {
            let answer = self.0.lock().unwrap().remove(0);
            let found = answer.iter().map(|text| SocketAddr::new(text.parse().unwrap(), 0));
            let found: Vec<_> = found.collect();
            Box::pin(async { Ok(Box::new(found.into_iter()) as Addrs) })
        }
    }

    async fn resolved(guard: &Guard) -> Result<usize, String> {
        let found = guard.resolve("registry.example".parse().unwrap()).await;
        found.map(Iterator::count).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn every_answer_is_judged() {
        let lookup = Swapped(Mutex::new(vec![
            &["93.184.216.34", "2606:2800:220:1::1"],
            &["127.0.0.1"],
            &["93.184.216.34", "127.0.0.1"],
            &["10.0.0.1"],
        ]));
        let guard = Guard::new(Arc::new(lookup), &AllowedHosts::default(), Whose::Sources);
        assert_eq!(resolved(&guard).await, Ok(2));
        for _ in 0..3 {
            let refused = resolved(&guard).await.unwrap_err();
            assert!(refused.starts_with("registry.example is at "), "{refused}");
        }
    }

    /// A name that was public when the mirror was set up, and is this machine when it is connected
    /// to: nobody listens, because nobody is connected to.
    #[tokio::test]
    async fn a_name_that_changes_its_mind() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let source = SourceName::parse(&format!("registry.example:{port}/a/b")).unwrap();
        let mut options = Options { plain_http: true, ..Options::new(source) };
        options.allowed_hosts = AllowedHosts::parse(["127.0.0.9"]);
        let lookup = Arc::new(Swapped(Mutex::new(vec![&["127.0.0.1"]])));
        let client = Client::with_lookup(&options, lookup).unwrap();
        let error = Source::with_client(options, client).tags().await.unwrap_err();
        assert_eq!((error.fault(), error.can_retry()), (Fault::Refused, false), "{error}");
        let nobody = listener.accept().unwrap_err();
        assert_eq!(nobody.kind(), std::io::ErrorKind::WouldBlock);
    }
}
