//! Rows that we leave in the middle of an upload, in the hands of Quay's own module.

use std::io::Write as _;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use proptest::test_runner::Config;
use quay_sidecar::blobs::ResumableSha256;
use serde_json::{Value, json};

use super::Pusher;
use super::python::python;
use crate::support::World;
use crate::support::images::digest_of;

/// Loads each state as Quay does: nothing but its one class comes out of a pickle.
const ENDS: &str = "
import base64, io, json, pickle, sys
import resumablesha256

class Strict(pickle.Unpickler):
    def find_class(self, module, name):
        assert (module, name) == ('resumablesha256', 'sha256'), (module, name)
        return resumablesha256.sha256

digests = []
for state, rest in json.load(sys.stdin):
    running = Strict(io.BytesIO(base64.b64decode(state, validate=True))).load()
    so_far = running.hexdigest()
    running.update(base64.b64decode(rest))
    # Its clean-up and its next chunk write it again.
    pickle.dumps(running)
    digests.append((so_far, running.hexdigest()))
json.dump(digests, sys.stdout)
";

/// The digests of Python: of what was hashed so far, and with the rest.
pub fn ended_by_python(states: &[(String, Vec<u8>)]) -> Vec<(String, String)> {
    use base64::Engine as _;
    use base64::prelude::BASE64_STANDARD;
    let asked: Vec<Value> =
        states.iter().map(|(state, rest)| json!([state, BASE64_STANDARD.encode(rest)])).collect();
    let mut child = Command::new(python())
        .args(["-c", ENDS])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{}: {e}: scripts/test installs it", python().display()));
    let mut stdin = child.stdin.take().unwrap();
    // It reads all before it writes.
    stdin.write_all(Value::from(asked).to_string().as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "Python refuses a state");
    let digests: Vec<(String, String)> = serde_json::from_slice(&output.stdout).unwrap();
    let named = |hex: String| format!("sha256:{hex}");
    digests.into_iter().map(|(so_far, all)| (named(so_far), named(all))).collect()
}

#[tokio::test]
async fn python_ends_what_we_have_begun() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = Pusher::new(&registryd, &world);
    let blob: Vec<u8> = (0..200_000u32).map(|i| (i.wrapping_mul(31) >> 3) as u8).collect();
    let around = |block: usize| (block.saturating_sub(2)..=block + 2).collect::<Vec<_>>();
    let mut ends = [0, 55, 64, 119, 128, 4096, 65_536, 131_072].map(around).concat();
    // And anywhere.
    ends.extend((1..40).map(|number| number * 4_999));
    ends.sort_unstable();
    ends.dedup();

    let (uuid, mut at) = (pusher.start().await, 0);
    let (mut states, mut expected) = (Vec::new(), Vec::new());
    for (chunks, end) in ends.into_iter().enumerate() {
        pusher.patch(&uuid, blob[at..end].to_vec()).await;
        at = end;
        let row = world.database.sql(
            "SELECT byte_count, chunk_count, storage_metadata, uncompressed_byte_count,
                 piece_sha_state, piece_hashes, sha_state FROM blobupload",
        );
        // What Quay's driver for folders keeps, and nothing of BitTorrent.
        let (columns, state) = row.rsplit_once('|').unwrap();
        // No bytes are no bytes when they are unpacked, too.
        let uncompressed = if at == 0 { "0" } else { "" };
        assert_eq!(columns, format!("{at}|{}|{{}}|{uncompressed}||", chunks + 1));
        states.push((state.to_owned(), blob[at..].to_vec()));
        expected.push((digest_of(&blob[..at]), digest_of(&blob)));
    }
    assert_eq!(ended_by_python(&states), expected);
}

proptest! {
    #![proptest_config(Config { cases: 8, failure_persistence: None, ..Config::default() })]

    /// However a blob is cut: at each boundary our state, put aside and taken up again, is good for
    /// Python.
    #[test]
    fn any_cut_is_good_for_python(
        blob in proptest::collection::vec(any::<u8>(), 0..2000),
        cuts in proptest::collection::vec(0usize..2000, 0..40),
    ) {
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(blob.len())).collect();
        // And every length around a block.
        cuts.extend((0..=130).filter(|cut| *cut <= blob.len()));
        cuts.sort_unstable();
        let (mut column, mut from) = (ResumableSha256::default().to_column(), 0);
        let (mut states, mut expected) = (Vec::new(), Vec::new());
        for cut in cuts {
            let mut hash = ResumableSha256::from_column(&column).unwrap();
            hash.update(&blob[from..cut]);
            (column, from) = (hash.to_column(), cut);
            states.push((column.clone(), blob[cut..].to_vec()));
            expected.push((digest_of(&blob[..cut]), digest_of(&blob)));
        }
        prop_assert_eq!(ended_by_python(&states), expected);
    }
}
