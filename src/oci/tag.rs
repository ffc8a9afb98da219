//! Tag names.

/// Whether `text` is a tag in Quay's routes: a word character, then up to 127 word characters,
/// dots and dashes (contract §1.1). Python's word characters are Unicode's.
pub fn is_tag(text: &str) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let mut rest = text.chars();
    rest.next().is_some_and(word)
        && rest.clone().count() <= 127
        && rest.all(|c| word(c) || c == '.' || c == '-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_tag_is_short_and_has_no_separator(text in ".{0,140}") {
            if is_tag(&text) {
                prop_assert!(text.chars().count() <= 128 && !text.contains(['/', ':', '$', '\0']));
            }
        }
    }

    #[test]
    fn tags_as_quay_routes_them() {
        let longest = "a".repeat(128);
        for tag in ["v1", "_", "0", "a.b-c_d", "größe", &longest] {
            assert!(is_tag(tag), "{tag}");
        }
        let too_long = "a".repeat(129);
        for not in ["", "-bad", ".hidden", "a b", "a/b", "a:b", "$temp-1", "a\0", &too_long] {
            assert!(!is_tag(not), "{not}");
        }
    }
}
