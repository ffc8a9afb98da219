//! Where nginx's directives stand in a file.
//!
//! nginx has no way to ask what a file means without using it, and Quay's files change between
//! releases; so anchors are found as directives in their blocks, never as lines. The rules are those
//! of nginx's own reader: words end at white space, `;` or `{`; a backslash takes the next
//! character along; `#` starts a comment where a word could start; quotes hold everything.

use std::ops::Range;

/// One directive: `name argument…;` or `name argument… { … }`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Directive<'a> {
    /// The name, then the arguments, as written, quotes included.
    pub words: Vec<Word<'a>>,
    /// The directive whose block this one stands in, by its place in the list.
    pub parent: Option<usize>,
    /// From the first word to what ends it: after `;` or after `}`.
    pub span: Range<usize>,
    /// What stands between `{` and `}`.
    pub body: Option<Range<usize>>,
}

/// One word and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word<'a> {
    pub text: &'a str,
    pub start: usize,
}

/// A file that is no nginx configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct LexError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong there.
    pub what: &'static str,
}

impl Word<'_> {
    pub fn end(&self) -> usize {
        self.start + self.text.len()
    }

    /// Without its quotes.
    pub fn plain(&self) -> &str {
        let inner = |quote| self.text.strip_prefix(quote).and_then(|t| t.strip_suffix(quote));
        inner('"').or_else(|| inner('\'')).unwrap_or(self.text)
    }
}

impl Directive<'_> {
    pub fn name(&self) -> &str {
        self.words.first().map_or("", Word::plain)
    }

    /// The arguments without their quotes.
    pub fn args(&self) -> Vec<&str> {
        self.words.iter().skip(1).map(Word::plain).collect()
    }

    /// The arguments as they are written.
    pub fn written(&self) -> String {
        self.words.iter().skip(1).map(|word| word.text).collect::<Vec<_>>().join(" ")
    }

    pub fn is(&self, name: &str, args: &[&str]) -> bool {
        self.name() == name && self.args() == args
    }
}

/// Every directive, in the order of the file; a block comes before what is in it.
pub(super) fn directives(text: &str) -> Result<Vec<Directive<'_>>, LexError> {
    let mut reader = Reader { text, at: 0 };
    let mut found: Vec<Directive<'_>> = Vec::new();
    let mut open: Vec<usize> = Vec::new();
    let mut words: Vec<Word<'_>> = Vec::new();
    while let Some(token) = reader.next()? {
        match token {
            Token::Word(word) => words.push(word),
            Token::End(at) | Token::Open(at) => {
                let Some(start) = words.first().map(|word| word.start) else {
                    return Err(reader.error(at, "a directive without a name"));
                };
                let block = matches!(token, Token::Open(_));
                found.push(Directive {
                    words: std::mem::take(&mut words),
                    parent: open.last().copied(),
                    span: start..at + 1,
                    body: block.then_some(at + 1..at + 1),
                });
                if block {
                    open.push(found.len() - 1);
                }
            }
            Token::Close(at) => {
                if !words.is_empty() {
                    return Err(reader.error(at, "a directive without its ;"));
                }
                let opened = open.pop().and_then(|index| found.get_mut(index));
                let Some(block) = opened else {
                    return Err(reader.error(at, "a } that closes nothing"));
                };
                block.span.end = at + 1;
                block.body = block.body.take().map(|body| body.start..at);
            }
        }
    }
    match (words.first(), open.last()) {
        (Some(word), _) => Err(reader.error(word.start, "a directive without its ;")),
        (None, Some(&index)) => Err(reader.error(found[index].span.start, "a { never closed")),
        (None, None) => Ok(found),
    }
}

/// The directives directly inside of `parent`.
pub(super) fn children<'d, 'a>(
    all: &'d [Directive<'a>],
    parent: Option<usize>,
) -> impl Iterator<Item = &'d Directive<'a>> {
    all.iter().filter(move |directive| directive.parent == parent)
}

enum Token<'a> {
    Word(Word<'a>),
    End(usize),
    Open(usize),
    Close(usize),
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<Option<Token<'a>>, LexError> {
        let bytes = self.text.as_bytes();
        while let Some(&byte) = bytes.get(self.at) {
            let at = self.at;
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' => self.at += 1,
                b'#' => {
                    let rest = &bytes[at..];
                    self.at += rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len());
                }
                b';' | b'{' | b'}' => {
                    self.at += 1;
                    return Ok(Some(match byte {
                        b';' => Token::End(at),
                        b'{' => Token::Open(at),
                        _ => Token::Close(at),
                    }));
                }
                b'"' | b'\'' => return self.quoted(byte).map(Some),
                _ => return Ok(Some(self.bare())),
            }
        }
        Ok(None)
    }

    fn quoted(&mut self, quote: u8) -> Result<Token<'a>, LexError> {
        let (start, bytes) = (self.at, self.text.as_bytes());
        let mut at = start + 1;
        while let Some(&byte) = bytes.get(at) {
            at += if byte == b'\\' { 2 } else { 1 };
            if byte == quote {
                self.at = at;
                let text = self.text.get(start..at);
                let text = text.ok_or_else(|| self.error(start, "a broken word"))?;
                return Ok(Token::Word(Word { text, start }));
            }
        }
        Err(self.error(start, "a quote that is never closed"))
    }

    fn bare(&mut self) -> Token<'a> {
        let (start, bytes) = (self.at, self.text.as_bytes());
        let mut at = start;
        while let Some(&byte) = bytes.get(at) {
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' | b';' => break,
                // `${name}` is part of a word; any other brace opens a block.
                b'{' if at == start || bytes[at - 1] != b'$' => break,
                b'\\' => at += 1,
                _ => {}
            }
            at += 1;
        }
        // A backslash may have taken the first byte of a longer character, or of nothing.
        at = at.min(bytes.len());
        while !self.text.is_char_boundary(at) {
            at += 1;
        }
        self.at = at;
        Token::Word(Word { text: &self.text[start..at], start })
    }

    fn error(&self, at: usize, what: &'static str) -> LexError {
        let before = &self.text.as_bytes()[..at.min(self.text.len())];
        LexError { line: before.iter().filter(|&&byte| byte == b'\n').count() + 1, what }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn directives_and_their_blocks() {
        let text = "a 'b c' # d;\n  \"e}\";\nlocation ~ ^/x\\/\\; {\n p ${q}r;\n}\nz;";
        let found = directives(text).unwrap();
        let seen: Vec<_> = found.iter().map(|d| (d.name(), d.args(), d.parent)).collect();
        let expected = [
            ("a", vec!["b c", "e}"], None),
            ("location", vec!["~", "^/x\\/\\;"], None),
            ("p", vec!["${q}r"], Some(1)),
            ("z", vec![], None),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn spans_are_exact() {
        let text = "x {\n    proxy_pass   http://up;\n}\n";
        let found = directives(text).unwrap();
        assert_eq!(&text[found[0].span.clone()], "x {\n    proxy_pass   http://up;\n}");
        assert_eq!(&text[found[0].body.clone().unwrap()], "\n    proxy_pass   http://up;\n");
        assert_eq!(&text[found[1].span.clone()], "proxy_pass   http://up;");
        let target = &found[1].words[1];
        assert_eq!(&text[target.start..target.end()], "http://up");
        assert_eq!(found[1].parent, Some(0));
    }

    #[test]
    fn what_is_no_configuration() {
        for (text, line, what) in [
            ("a;\nb", 2, "a directive without its ;"),
            ("a {\n b }", 2, "a directive without its ;"),
            ("a {\n", 1, "a { never closed"),
            ("}", 1, "a } that closes nothing"),
            ("a 'b;\n", 1, "a quote that is never closed"),
            (";", 1, "a directive without a name"),
        ] {
            assert_eq!(directives(text), Err(LexError { line, what }), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[a-z{};'\"\\\\#$ \n\u{e9}\u{1f600}]{0,60}") {
            let _ = directives(&text);
        }
    }
}
