//! Takes a `DB_URI` apart, as SQLAlchemy does for Python Quay, plus what libpq allows beyond that.

use percent_encoding::percent_decode_str;

use super::secret::Secret;

/// The parts of a `DB_URI`; everything that is empty in the text is `None`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct DbUri {
    /// Without the driver: `postgresql` for `postgresql+psycopg2`.
    pub(super) scheme: String,
    pub(super) user: Option<String>,
    pub(super) password: Option<Secret>,
    /// Host names, addresses or socket folders, each with the port written behind it.
    pub(super) hosts: Vec<(String, Option<u16>)>,
    /// Not percent-decoded: SQLAlchemy does not decode it either.
    pub(super) dbname: Option<String>,
    /// The parameters after `?`, in order.
    pub(super) query: Vec<(String, String)>,
}

/// Why a `DB_URI` was refused. Fixed phrases only: the text holds a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum UriError {
    #[error("not of the form scheme://user:password@host:port/name")]
    NotAUri,
    #[error("a port is not a number from 1 to 65535")]
    Port,
    #[error("an IPv6 address is not closed with a bracket")]
    Bracket,
    #[error("a percent escape does not decode to UTF-8")]
    Escape,
    #[error("an @ stands where none can be; in a password it is written %40, a slash %2F")]
    StrayAt,
}

pub(super) fn parse(uri: &str) -> Result<DbUri, UriError> {
    let (scheme, rest) = uri.split_once("://").ok_or(UriError::NotAUri)?;
    let word = |c: char| c.is_ascii_alphanumeric() || "+_-.".contains(c);
    if scheme.is_empty() || !scheme.chars().all(word) {
        return Err(UriError::NotAUri);
    }
    let (userinfo, rest) = split_userinfo(rest);
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (hosts, dbname) = rest.split_once('/').unwrap_or((rest, ""));
    // A password cut in the wrong place leaves its @ behind. Refused, or the rest of that password
    // would be taken for a host or a name, and printed as one.
    if [hosts, dbname, query].iter().any(|part| part.contains('@')) {
        return Err(UriError::StrayAt);
    }
    let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
    Ok(DbUri {
        scheme: scheme.split('+').next().unwrap_or(scheme).to_ascii_lowercase(),
        user: decode(user)?,
        password: decode(password)?.map(Secret::new),
        hosts: hosts
            .split(',')
            .filter(|host| !host.is_empty())
            .map(host)
            .collect::<Result<_, _>>()?,
        dbname: Some(dbname.to_string()).filter(|name| !name.is_empty()),
        query: query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(pair)
            .collect::<Result<_, _>>()?,
    })
}

/// Splits `user:password@` off. The last `@` before the path counts; failing that, one further on,
/// which is a password with an unescaped slash or question mark (SQLAlchemy allows these).
fn split_userinfo(rest: &str) -> (&str, &str) {
    let authority = rest.split(['/', '?']).next().unwrap_or(rest);
    let is_port = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let at = authority.rfind('@').or_else(|| {
        let (_, port) = authority.split_once(':')?;
        if is_port(port) || authority.starts_with('[') || authority.contains(',') {
            return None;
        }
        rest.find('@')
    });
    match at {
        Some(at) => (&rest[..at], &rest[at + 1..]),
        None => ("", rest),
    }
}

fn host(text: &str) -> Result<(String, Option<u16>), UriError> {
    let (name, port) = match text.strip_prefix('[') {
        Some(address) => {
            let (address, port) = address.split_once(']').ok_or(UriError::Bracket)?;
            match port.strip_prefix(':') {
                Some(port) => (address, port),
                None if port.is_empty() => (address, ""),
                None => return Err(UriError::Bracket),
            }
        }
        None => text.split_once(':').unwrap_or((text, "")),
    };
    let port = match port {
        "" => None,
        port => Some(self::port(port).ok_or(UriError::Port)?),
    };
    Ok((decode(name)?.unwrap_or_default(), port))
}

/// A port number; zero is none.
pub(super) fn port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port != 0)
}

fn pair(text: &str) -> Result<(String, String), UriError> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    Ok((decode(name)?.unwrap_or_default(), decode(value)?.unwrap_or_default()))
}

/// Percent-decodes; `+` stays what it is. Empty text is `None`.
fn decode(text: &str) -> Result<Option<String>, UriError> {
    let text = percent_decode_str(text).decode_utf8().map_err(|_| UriError::Escape)?;
    Ok(Some(text.into_owned()).filter(|text| !text.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Row<'a> =
        (&'a str, Option<&'a str>, Option<&'a str>, &'a [(&'a str, Option<u16>)], Option<&'a str>);

    #[test]
    fn every_form() {
        let h = |name, port| (name, port);
        let table: &[Row] = &[
            ("postgresql://u:p@h:5433/d", Some("u"), Some("p"), &[h("h", Some(5433))], Some("d")),
            ("postgres://u:p@h/d", Some("u"), Some("p"), &[h("h", None)], Some("d")),
            ("postgresql+psycopg2://u:p@h/d", Some("u"), Some("p"), &[h("h", None)], Some("d")),
            ("POSTGRESQL://h/d", None, None, &[h("h", None)], Some("d")),
            ("postgresql://h:/d", None, None, &[h("h", None)], Some("d")),
            ("postgresql://u@h/d", Some("u"), None, &[h("h", None)], Some("d")),
            ("postgresql://u:@h/d", Some("u"), None, &[h("h", None)], Some("d")),
            ("postgresql://:p@h/d", None, Some("p"), &[h("h", None)], Some("d")),
            ("postgresql:///d", None, None, &[], Some("d")),
            ("postgresql://", None, None, &[], None),
            ("postgresql://u:p@/d", Some("u"), Some("p"), &[], Some("d")),
            (
                "postgresql://u%40x:p%40%3A%2F%3F%25@h/d",
                Some("u@x"),
                Some("p@:/?%"),
                &[h("h", None)],
                Some("d"),
            ),
            ("postgresql://u:a:b+c@h/d", Some("u"), Some("a:b+c"), &[h("h", None)], Some("d")),
            ("postgresql://u:p@ss@h/d", Some("u"), Some("p@ss"), &[h("h", None)], Some("d")),
            ("postgresql://u:p/w@h/d", Some("u"), Some("p/w"), &[h("h", None)], Some("d")),
            ("postgresql://u:p?w@h/d", Some("u"), Some("p?w"), &[h("h", None)], Some("d")),
            (
                "postgresql://u:p@[::1]:5433/d",
                Some("u"),
                Some("p"),
                &[h("::1", Some(5433))],
                Some("d"),
            ),
            ("postgresql://[fe80::1]/d", None, None, &[h("fe80::1", None)], Some("d")),
            ("postgresql://%2Fvar%2Frun/d", None, None, &[h("/var/run", None)], Some("d")),
            (
                "postgresql://a:1,b,[::1]:3/d",
                None,
                None,
                &[h("a", Some(1)), h("b", None), h("::1", Some(3))],
                Some("d"),
            ),
            ("postgresql://u:p@h?sslmode=require", Some("u"), Some("p"), &[h("h", None)], None),
            ("postgresql://h/my%20db", None, None, &[h("h", None)], Some("my%20db")),
        ];
        for (uri, user, password, hosts, dbname) in table {
            let parsed = parse(uri).unwrap_or_else(|error| panic!("{uri}: {error}"));
            assert_eq!(parsed.user.as_deref(), *user, "{uri}");
            assert_eq!(parsed.password.as_ref().map(Secret::expose), *password, "{uri}");
            let found: Vec<_> =
                parsed.hosts.iter().map(|(name, port)| (name.as_str(), *port)).collect();
            assert_eq!(found, *hosts, "{uri}");
            assert_eq!(parsed.dbname.as_deref(), *dbname, "{uri}");
        }
    }

    #[test]
    fn parameters() {
        let parsed =
            parse("postgresql:///d?host=/var/run/postgresql&options=-c%20a%3Db&empty").unwrap();
        let expected = [("host", "/var/run/postgresql"), ("options", "-c a=b"), ("empty", "")];
        assert_eq!(
            parsed.query,
            expected.map(|(name, value)| (name.to_string(), value.to_string()))
        );
    }

    #[test]
    fn refused() {
        let table = [
            ("", UriError::NotAUri),
            ("h/d", UriError::NotAUri),
            ("://h/d", UriError::NotAUri),
            ("post gres://h/d", UriError::NotAUri),
            ("postgresql://h:65536/d", UriError::Port),
            ("postgresql://h:0/d", UriError::Port),
            ("postgresql://h:x/d", UriError::Port),
            ("postgresql://[::1/d", UriError::Bracket),
            ("postgresql://[::1]x/d", UriError::Bracket),
            ("postgresql://u:%ff@h/d", UriError::Escape),
            ("postgresql://u:12/34@h/d", UriError::StrayAt),
            ("postgresql://u:p@ss/w@h/d", UriError::StrayAt),
            ("postgresql://h/d?a=b@c", UriError::StrayAt),
        ];
        for (uri, error) in table {
            assert_eq!(parse(uri), Err(error), "{uri}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".*", rest in "[a-z0-9@:/?%,\\[\\]&=]*") {
            let _ = parse(&text);
            let _ = parse(&format!("postgresql://{rest}"));
        }

        #[test]
        fn an_encoded_password_comes_back(password in "\\PC{1,20}") {
            use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
            let encoded = utf8_percent_encode(&password, NON_ALPHANUMERIC);
            let parsed = parse(&format!("postgresql://u:{encoded}@h/d")).unwrap();
            prop_assert_eq!(parsed.password, Some(Secret::new(password)));
        }
    }
}
