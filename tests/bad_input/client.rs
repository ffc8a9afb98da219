//! What clients say about themselves, as it reaches the action log.

use super::*;

const PULL: &str = "/v2/demo/public/manifests/latest";

fn ask(registryd: &Registryd, request: &Request<'_>) -> Raw {
    let address = registryd.base().strip_prefix("http://").unwrap();
    raw::exchange(address, &request.bytes()).unwrap()
}

#[test]
fn user_agents_are_data() {
    let world = World::new();
    let registryd = world.registryd();
    let long = "a".repeat(50_000);
    for agent in [
        "",
        "\"}, {\"a\": \"b",
        "back\\slash \\u0041 \\\" end",
        "'); DROP TABLE logentry3; --",
        "tab\there",
        "<script>alert(1)</script>",
        "é \u{fd} \u{80}",
        "%s %d {} ${jndi:ldap://x}",
        long.as_str(),
    ] {
        let latin1: Vec<u8> = agent.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
        let answer = ask(&registryd, &get(PULL).with("User-Agent", &latin1));
        assert_eq!(answer.status, 200, "{agent:.60}: {answer:?}");
        assert_eq!(last_row(&world).1["user-agent"], agent);
    }
    let rows = world.database.sql("SELECT count(*) FROM logentry3");
    assert_eq!(rows, "9");
}

#[test]
fn only_nginx_is_believed_about_addresses() {
    let world = World::new();
    let long = format!("10.0.0.1, {}", "9".repeat(50_000));
    let cut = "9".repeat(255);
    for (args, believed) in [(&[][..], false), (&["--behind-nginx"], true)] {
        let registryd = world.registryd_with(args);
        for (forwarded, expected) in [
            ("10.0.0.1", "10.0.0.1"),
            ("10.0.0.1, 10.0.0.2", "10.0.0.2"),
            ("10.0.0.1,10.0.0.2 , 2001:db8::1 ", "2001:db8::1"),
            ("", "127.0.0.1"),
            ("10.0.0.1,", "127.0.0.1"),
            ("'; DROP TABLE logentry3; --", "'; DROP TABLE logentry3; --"),
            (&long, &cut),
        ] {
            let answer = ask(&registryd, &get(PULL).with("X-Forwarded-For", forwarded));
            assert_eq!(answer.status, 200, "{forwarded:.60}: {answer:?}");
            let expected = if believed { expected } else { "127.0.0.1" };
            assert_eq!(last_row(&world).0, expected, "{forwarded:.60}");
        }
    }
}
