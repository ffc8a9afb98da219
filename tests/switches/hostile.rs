//! What no input may do: panic, exhaust a stack, or move an owner to rust while anything is wrong.

use proptest::prelude::*;
use quay_sidecar::switches::{
    Assignment, Code, Effective, Event, Owner, Poller, Reading, Stage, Standing, edit,
};

use super::{FULL, ROUTER, S, has_rust, marked, once, owners};

/// Whether nothing is rust in `a`, for whomever, that is not rust in `b`.
fn no_more_rust(a: &Effective, b: &Effective) -> bool {
    let cohort = |effective: &Effective| {
        let canary = &effective.switches.canary;
        ["mirror/x", "acme/app", "o/r", "open/x"]
            .map(|repository| format!("{:?}", canary.by_path(Some(repository))))
    };
    let (old, new) = (owners(b), owners(a));
    new.iter().all(|(id, (owner, gated))| {
        let (before, before_gated) = old[id];
        *owner != Owner::Rust
            || before == Owner::Rust
                && (!before_gated
                    || *gated
                        && cohort(a).iter().zip(cohort(b)).all(|(a, b)| a == "Outside" || *a == b))
    })
}

/// Fragments that make up switch files, ours and hostile.
fn yaml_like() -> impl Strategy<Value = String> {
    let fragment = prop::sample::select(vec![
        "version: ",
        "12",
        "switches:",
        "\n",
        "\n  ",
        "\n    - ",
        "ROUTE_OWNER_CAP_V2_PULL",
        ": ",
        "rust",
        "python",
        "go",
        "off",
        "ROUTE_OWNER_FAMILY_REGISTRY_V2: rust",
        "ROUTE_CANARY_ORGS",
        "ROUTE_CANARY_PERCENT: 5",
        "MIGRATION_FORCE_PYTHON",
        "true",
        "MIGRATION_SWITCHES:",
        "[",
        "]",
        "{",
        "}",
        ",",
        "'",
        "\"",
        "|",
        ">",
        "&a ",
        "*a",
        "<<: ",
        "...",
        "---",
        "!!str ",
        "!x ",
        "# ",
        "\t",
        "\r\n",
        "\u{feff}",
        "\0",
        "é",
        "? ",
        "~",
        "0x10",
        "1e9",
        "schema: 1\n",
        "version: 1\n",
        "switches:\n  ROUTE_OWNER_CAP_V2_PULL: rust\n",
    ]);
    prop::collection::vec(fragment, 0..40).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for reading in [Reading::switches(bytes.clone()), Reading::config(bytes)] {
            let poller = Poller::once(Stage::default(), &reading);
            prop_assert!(!has_rust(&poller.effective()));
        }
    }

    #[test]
    fn only_a_valid_document_gives_rust(text in yaml_like()) {
        for reading in [Reading::switches(text.clone()), Reading::config(text.clone())] {
            let poller = Poller::once(Stage::default(), &reading);
            if has_rust(&poller.effective()) {
                let status = poller.status();
                prop_assert!(!status.problems.iter().any(|problem| problem.is_error()), "{text}");
                prop_assert_eq!(status.standing, Standing::Current);
            }
        }
    }

    #[test]
    fn one_wrong_byte_is_harmless(
        at in 0..FULL.len(),
        byte in any::<u8>(),
        insert in any::<bool>(),
    ) {
        let mut bytes = marked().into_bytes();
        if insert { bytes.insert(at, byte) } else { bytes[at] = byte }
        let poller = once(bytes);
        if poller.status().problems.iter().any(|problem| problem.is_error()) {
            prop_assert!(!has_rust(&poller.effective()));
            prop_assert!(poller.effective().invalid);
        }
    }

    #[test]
    fn edits_never_panic_and_never_write_what_is_invalid(
        text in yaml_like(),
        argument in "ROUTE_CANARY_USERS=.{0,20}",
    ) {
        let arguments = [
            "ROUTE_OWNER_CAP_V2_PULL=rust",
            "ROUTE_CANARY_ORGS=a,b",
            "ROUTE_CANARY_PERCENT=",
            &argument,
        ];
        let changes: Vec<Assignment> =
            arguments.iter().filter_map(|argument| Assignment::parse(argument).ok()).collect();
        let now = chrono::DateTime::from_timestamp(1_795_456_800, 0).unwrap();
        if let Ok(edited) = edit(Some(&text), None, &changes, 0, now) {
            let poller = once(edited.text.clone());
            prop_assert_eq!(poller.status().standing, Standing::Current, "{}", edited.text);
            prop_assert!(poller.snapshot().is_some_and(|snapshot| snapshot.complete));
            let again = edit(Some(&edited.text), None, &changes, 0, now).unwrap();
            let said = |edited: &quay_sidecar::switches::Edited| {
                edited.snapshot.switches.written().into_iter().map(|(key, (text, _))| (key, text))
                    .collect::<Vec<_>>()
            };
            prop_assert_eq!(said(&again), said(&edited));
        }
    }

    #[test]
    fn the_environment_never_panics(
        name in "ROUTE_[A-Z_0-9]{0,20}|WORKER_OWNER_.{0,9}",
        value in ".{0,40}",
    ) {
        let stage = Stage::read([(name, value)]);
        prop_assert!(!has_rust(&Effective::environment(&stage)));
    }

    #[test]
    fn targets_never_panic(
        method in "[A-Z]{0,7}",
        target in "(/|v2|%2F|%|\\.\\.|a|blobs|uploads|manifests|é|\\?){0,14}",
    ) {
        ROUTER.with(|router| router.find(&method, &target));
    }
}

/// A file with its end mark, cut anywhere, is not used, or says the same.
#[test]
fn a_marked_document_cut_at_any_byte_gives_no_rust() {
    let whole = marked();
    let full = once(whole.clone()).effective();
    for end in 0..whole.len() {
        let mut poller = Poller::new(Stage::default());
        poller.poll(S(0), &Reading::switches(&whole.as_bytes()[..end]));
        assert!(no_more_rust(&poller.effective(), &full), "cut at {end}");
        let same = poller.snapshot().is_some();
        assert!(!same || whole[end..].trim().is_empty(), "cut at {end} was used at once");
    }
}

/// Without its end mark, half a file may well be valid: it has to come to rest before it is used.
#[test]
fn a_half_written_document_gives_no_rust_while_it_is_written() {
    let before = "version: 11\nswitches:\n  ROUTE_OWNER_CAP_V2_BASE: rust\n...\n";
    let old = once(before).effective();
    let full = once(FULL).effective();
    for end in 0..FULL.len() {
        let mut poller = Poller::new(Stage::default());
        poller.poll(S(0), &Reading::switches(before));
        for (now, text) in [(10, &FULL[..end]), (11, FULL)] {
            poller.poll(S(now), &Reading::switches(text));
            assert!(no_more_rust(&poller.effective(), &old), "cut at {end}");
        }
        assert!(poller.wait(S(11)) <= S(2));
        let event = poller.poll(S(13), &Reading::switches(FULL));
        assert!(matches!(event, Event::Accepted { from: Some(11), to: 12, .. }), "{event:?}");
        assert_eq!(owners(&poller.effective()), owners(&full));
    }
}

#[test]
fn nesting_and_size_are_bounded() {
    let code = |text: String| once(text).status().problems[0].code;
    assert_eq!(code("[".repeat(100_000)), Code::BadYaml);
    assert_eq!(code(format!("version: 1\nswitches: {}", "{a: ".repeat(50_000))), Code::BadYaml);
    assert_eq!(code(" ".repeat(257 << 10)), Code::TooLarge);
    assert_eq!(code(format!("{}#{}", marked(), "x".repeat(257 << 10))), Code::TooLarge);
    let config = Reading::config(format!("MIGRATION_SWITCHES: {}", "[".repeat(100_000)));
    assert_eq!(Poller::once(Stage::default(), &config).status().problems[0].code, Code::BadYaml);
}
