//! Killed at any moment, it is whole again at the next start.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use super::*;
use crate::support::images::OCI_MANIFEST;

#[test]
fn a_first_start_that_was_killed_is_begun_again() {
    // The first of them appears at once, the last one just before the end.
    for at in ["first-start.unfinished", "quay.pem", "config.yaml", "quay.db.new"] {
        let own = Own::new();
        let mut first = own.command(&[]).stdout(std::process::Stdio::null()).spawn().unwrap();
        eventually(|| own.path(at).exists().then_some(()), || format!("no {at}"));
        first.kill().unwrap();
        first.wait().unwrap();
        assert!(
            own.path("first-start.unfinished").exists(),
            "it was too quick to be killed at {at}"
        );
        let registryd = own.start(&[]);
        assert!(!own.path("first-start.unfinished").exists());
        assert!(own.token(Some(("admin", &password(&registryd))), "admin/none").is_ok(), "{at}");
        assert_eq!(own.sql("PRAGMA integrity_check"), "ok");
    }
}

#[test]
fn one_process_has_the_folder() {
    let own = Own::new();
    let registryd = own.start(&[]);
    let (code, said) = own.refusal(&[]);
    assert!(code == 1 && said.contains("another process serves this folder"), "{code}: {said}");
    assert_eq!(own.get("/v2/", &[]).status, 401);
    registryd.signal("KILL");
    // The system takes its lock back.
    drop(registryd);
    own.start(&[]);
}

#[test]
fn nothing_that_was_answered_is_lost() {
    let own = Own::new();
    let image = image("pulled\n");
    own.push(&own.start(&["--anonymous-pull"]), "admin/public", "latest", &image);
    let mut answered = 0;
    for round in 0..4 {
        let mut registryd = own.start(&[]);
        let pulls = Pulls::start(&own);
        eventually(|| (pulls.count() >= 50).then_some(()), || registryd.logs());
        if round == 3 {
            // Asked to stop, it has an answer for everybody and leaves no log behind.
            assert!(registryd.terminate().success());
        } else {
            registryd.signal("KILL");
            drop(registryd);
        }
        answered += pulls.stop();
        assert_eq!(own.sql("PRAGMA integrity_check"), "ok");
        let logged: usize = own.sql("SELECT count(*) FROM logentry3").parse().unwrap();
        assert!(logged >= answered, "{answered} answered, {logged} logged");
    }
}

/// Clients that pull until their connection ends.
struct Pulls {
    going_on: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<()>>,
}

impl Pulls {
    fn start(own: &Own) -> Pulls {
        let (going_on, answered) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
        let clients = (0..4).map(|_| {
            let (going_on, answered) = (going_on.clone(), answered.clone());
            let mut client = own.client();
            std::thread::spawn(move || {
                let path = "/v2/admin/public/manifests/latest";
                while going_on.load(Ordering::Relaxed)
                    && let Ok(answer) = client.get(path, &[("Accept", OCI_MANIFEST)])
                {
                    assert_eq!(answer.status, 200, "{answer:?}");
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        let clients = clients.collect();
        Pulls { going_on, answered, clients }
    }

    fn count(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    fn stop(self) -> usize {
        self.going_on.store(false, Ordering::Relaxed);
        self.clients.into_iter().for_each(|client| client.join().unwrap());
        self.answered.load(Ordering::Relaxed)
    }
}
