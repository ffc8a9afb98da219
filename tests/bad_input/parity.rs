//! What a caller may not know is answered like what is not there.

use std::time::Instant;

use super::*;

/// All that a caller can tell answers apart by, but what is new each time and the name itself.
fn observable(answer: &Raw, name: &str) -> (u16, Vec<(String, String)>, String) {
    let nameless = |text: &str| text.replace(name, "<name>");
    let headers = answer.headers.iter().filter(|(header, _)| {
        let new = ["date", "x-request-id"];
        !new.contains(&header.as_str())
    });
    let headers = headers.map(|(header, value)| (header.clone(), nameless(value)));
    let mut headers: Vec<_> = headers.collect();
    headers.sort();
    (answer.status, headers, nameless(&answer.text()))
}

#[test]
fn private_repositories_look_absent() {
    let target = Target::get();
    let world = &target.world;
    let private = &world.private.manifest;
    let rest = [
        "manifests/latest".to_owned(),
        "manifests/nope".to_owned(),
        format!("manifests/{}", private.digest),
        format!("blobs/{}", private.layers()[0].digest),
        format!("blobs/{}", world.loose.digest),
        "tags/list".to_owned(),
        "tags/list?n=1&last=a".to_owned(),
    ];
    let callers = [
        None,
        Some(target.token(None, "demo/public")),
        Some(target.token(Some(&world.bob), "demo/public")),
        Some(target.token(Some(&world.puller), "demo/nested")),
        Some(target.bearer(&world.token(Some(&world.bob), "demo/private", &[]))),
    ];
    // Names of the same length, so that lengths agree too.
    for (there, absent) in [("demo/private", "demo/absente"), ("demo/readonly", "demo/notthere")] {
        for (rest, method) in rest.iter().flat_map(|rest| [(rest, "GET"), (rest, "HEAD")]) {
            for caller in &callers {
                let ask = |name: &str| {
                    let path = format!("/v2/{name}/{rest}");
                    let mut request = Request { method, ..get(&path) };
                    if let Some(token) = caller {
                        request = request.with("Authorization", token);
                    }
                    observable(&target.ask(&request), name)
                };
                let seen = ask(there);
                assert_eq!(seen.0, 401, "{method} {there}/{rest}: {seen:?}");
                assert_eq!(seen, ask(absent), "{method} {there}/{rest}");
            }
        }
    }
    target.assert_well();
}

#[test]
fn wrong_passwords_and_unknown_users_look_alike() {
    let target = Target::get();
    let ask = |username: &str, password: &str| {
        let credentials = target.basic(username, password);
        for path in ["/v2/auth?scope=repository:demo/private:pull", "/v2/auth"] {
            let answer = target.ask(&get(path).with("Authorization", &credentials));
            if answer.status != 429 {
                return observable(&answer, username);
            }
        }
        unreachable!("it is asked once only");
    };
    let world = &target.world;
    let unknown = ask("eve", "wrong");
    assert_eq!(unknown.0, 401, "{unknown:?}");
    // Each of them once: a second wrong password is put off, as in Quay.
    for username in [&world.bob.username, &world.zoe.username, "demo", "bob@example.org"] {
        assert_eq!(unknown, ask(username, "wrong"), "{username}");
    }
    target.assert_well();
    assert!(!target.registryd.logs().contains("hash unreadable"));
}

#[test]
fn unknown_users_take_as_long_as_known_ones() {
    let world = World::new();
    let hash = bcrypt::hash("right", 12).unwrap();
    world.database.sql(&format!("UPDATE \"user\" SET password_hash = '{hash}' WHERE NOT robot"));
    let registryd = world.registryd();
    let address = registryd.base().strip_prefix("http://").unwrap();
    let quickest = |usernames: [&str; 3]| {
        let times = usernames.map(|username| {
            let credentials = BASE64_STANDARD.encode(format!("{username}:wrong"));
            let authorization = format!("Basic {credentials}");
            let asked = Instant::now();
            let request = get("/v2/auth").with("Authorization", &authorization).bytes();
            assert_eq!(raw::exchange(address, &request).unwrap().status, 401, "{username}");
            asked.elapsed()
        });
        times.into_iter().min().unwrap()
    };
    let (known, unknown) = (quickest(["ada", "bob", "zoe"]), quickest(["eve", "mallory", "trudy"]));
    // The difference is that of two measurements, not that of hashing a password or none.
    assert!(unknown * 3 > known && known * 3 > unknown, "{known:?} and {unknown:?}");
}
