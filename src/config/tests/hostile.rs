//! No file makes us panic or print a secret.

use proptest::prelude::*;

use super::*;

/// Fragments that make up YAML, ours and hostile.
fn yaml_like() -> impl Strategy<Value = String> {
    let fragment = prop::sample::select(vec![
        "A",
        ": ",
        ":",
        "\n",
        "\n  ",
        "\n- ",
        "- ",
        "? ",
        "[",
        "]",
        "{",
        "}",
        ",",
        "'",
        "\"",
        "|",
        ">",
        "&a",
        "*a",
        "<<",
        "!!",
        "!!int ",
        "---",
        "...",
        "#",
        "%",
        "\t",
        "\0",
        "\u{feff}",
        "é",
        "0x",
        "1_0",
        "1e9",
        ".inf",
        "~",
        "yes",
        "DB_URI",
        "postgresql://",
        "@",
        "QUAY_SIDECAR",
        "DB_CONNECTION_ARGS",
        "DISTRIBUTED_STORAGE_CONFIG",
        "SERVER_HOSTNAME",
        "\n? ",
        "\n: ",
        "|+2\n",
        ">-\n",
        "\\x",
        "\\u12",
        "LocalStorage",
        "storage_path",
    ]);
    prop::collection::vec(fragment, 0..40).prop_map(|fragments| fragments.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_file_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "(?s).{0,200}", yaml in yaml_like()) {
        let _ = load_bytes(&bytes, &[]);
        let _ = load(&text);
        let _ = load(&yaml);
        let _ = load(&format!("{LEAST}{yaml}"));
        let _ = load_bytes(LEAST.as_bytes(), &[("QUAY_OVERRIDE_CONFIG", &text)]);
    }

    #[test]
    fn no_value_panics(
        key in prop::sample::select(vec!["DB_URI", "DB_CONNECTION_ARGS", "DISTRIBUTED_STORAGE_CONFIG", "QUAY_SIDECAR", "SERVER_HOSTNAME", "PROXY_COUNT"]),
        value in yaml_like(),
    ) {
        let _ = with(&format!("{key}: {value}"));
    }

    #[test]
    fn no_password_is_printed(
        // Long enough not to turn up by chance, with what tends to cut a URI in the wrong place.
        head in "[a-z0-9]{1,3}[@:/?#%&=,\\[\\]]{0,2}",
        tail in "[@:/?#%&=,\\[\\]]{0,2}[a-z]{1,3}",
    ) {
        let uri = format!("postgresql://u:{head}{PASSWORD}{tail}@h:5432/d");
        let _ = load(&replaced(&format!("DB_URI: '{uri}'")));
    }
}
