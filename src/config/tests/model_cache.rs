use super::*;

fn cache(value: &str) -> (ModelCache, String) {
    let file = match value {
        "" => LEAST.to_owned(),
        value => format!("{LEAST}DATA_MODEL_CACHE_CONFIG: {value}\n"),
    };
    let loaded = load(&file).unwrap();
    (loaded.config.model_cache, loaded.report.to_string())
}

#[test]
fn the_cache_is_where_quay_says() {
    let tcp = |host: &str, port| MemcachedAddress::Tcp(host.to_owned(), port);
    let memcached = |address| ModelCache::Memcached(address);
    for (value, expected) in [
        ("", memcached(tcp("127.0.0.1", 18080))),
        ("{}", ModelCache::Private),
        ("{engine: noop}", ModelCache::Private),
        ("{engine: inmemory, repository_blob_cache_ttl: 10s}", ModelCache::Private),
        (
            "{engine: memcached, endpoint: /run/m.sock}",
            memcached(MemcachedAddress::Unix("/run/m.sock".into())),
        ),
    ] {
        let (found, report) = cache(value);
        assert_eq!(found, expected, "{value}");
        assert!(
            report.contains("DATA_MODEL_CACHE_CONFIG") && !report.contains("reason"),
            "{report}"
        );
    }
    let (found, report) = cache(
        "{engine: redis, redis_config: {primary: {host: r, password: s3cr3t-p4ssw0rd}, replica: {host: s}}}",
    );
    let ModelCache::Redis(redis) = found else { panic!("{found:?}") };
    assert_eq!(redis.address, RedisAddress::Tcp("r".to_owned(), 6379));
    assert_eq!(redis.password.unwrap().expose(), PASSWORD);
    assert!(report.contains("redis://r:6379/0"), "{report}");
}

/// Nothing of this keeps us from serving.
#[test]
fn caches_that_are_not_cleared() {
    for (value, expected, reason) in [
        ("{engine: memcached, endpoint: [m, 1]}", ModelCache::Private, "its cache is off"),
        ("{engine: memcached, endpoint: 'm:1'}", ModelCache::Private, "its cache is off"),
        ("{engine: memcached}", ModelCache::Unreached, "does not start without it"),
        ("{engine: memcached, endpoint: 7}", ModelCache::Unreached, "found a number"),
        ("{engine: rediscluster}", ModelCache::Unreached, "rediscluster is not built"),
        ("{engine: Redis}", ModelCache::Unreached, "engine: Redis is not known"),
        ("{engine: 7}", ModelCache::Unreached, "engine: expected text"),
        ("{engine: redis}", ModelCache::Unreached, "redis_config: it has no primary"),
        (
            "{engine: redis, redis_config: {primary: {port: 1}}}",
            ModelCache::Unreached,
            "redis_config.primary: it has no host",
        ),
        ("off", ModelCache::Unreached, "expected a map, found"),
        ("null", ModelCache::Unreached, "expected a map, found null"),
    ] {
        let (found, report) = cache(value);
        assert_eq!(found, expected, "{value}");
        let line = report.lines().find(|line| line.contains("reason: "));
        assert!(line.is_some_and(|line| line.contains(reason)), "{value}: {report}");
    }
}
