//! The tables in `conf/`: a heading, then a row a line; quotes as in RFC 4180.

use std::collections::HashMap;

/// A row by the names of its columns.
pub(crate) type Row<'a> = HashMap<&'a str, String>;

/// Every row of `text` below the heading. A missing field is empty.
pub(crate) fn rows(text: &str) -> impl Iterator<Item = Row<'_>> {
    let mut lines = text.lines();
    let heading: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
    lines.filter(|line| !line.is_empty()).map(move |line| {
        let mut fields = fields(line).into_iter();
        heading.iter().map(|name| (*name, fields.next().unwrap_or_default())).collect()
    })
}

fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        let doubled = quoted && c == '"' && chars.peek() == Some(&'"');
        match c {
            '"' if doubled => {
                chars.next();
                push(&mut fields, '"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            c => push(&mut fields, c),
        }
    }
    fields
}

fn push(fields: &mut [String], c: char) {
    if let Some(field) = fields.last_mut() {
        field.push(c);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_hold_commas_and_quotes() {
        let rows: Vec<Row> = rows("a,b,c\n1,\"x, \"\"y\"\"\",\n").collect();
        assert_eq!(rows[0]["a"], "1");
        assert_eq!(rows[0]["b"], "x, \"y\"");
        assert_eq!(rows[0]["c"], "");
    }
}
