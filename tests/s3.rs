//! Blobs in an object storage: clients are sent there, with a URL that the storage itself verifies.

mod fault_proxy;
mod faults;
mod outages;
mod pushes;
mod uploads;

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use reqwest::{Response, StatusCode};
use serde_json::json;

use crate::support::process::{AtExit, signal, wait};
use crate::support::{Folder, Registryd, World, eventually, free_port, http};

const ACCESS: &str = "an-access-key";
const SECRET: &str = "a-secret/key+with=signs";
const BUCKET: &str = "blobs";

/// An S3 server that verifies signatures.
struct ObjectStorage {
    port: u16,
    child: Child,
    folder: Folder,
    _at_exit: AtExit,
}

impl ObjectStorage {
    /// With a copy of a world's storage under a prefix.
    fn start(world: &World, prefix: &str) -> ObjectStorage {
        let folder = Folder::new();
        let root = folder.path().join(BUCKET).join(prefix);
        std::fs::create_dir_all(root.parent().unwrap()).unwrap();
        let copied = Command::new("cp").arg("-r").arg(&world.storage).arg(&root).status().unwrap();
        assert!(copied.success());
        ObjectStorage::serve(folder)
    }

    /// With an empty bucket.
    fn empty() -> ObjectStorage {
        let folder = Folder::new();
        std::fs::create_dir(folder.path().join(BUCKET)).unwrap();
        ObjectStorage::serve(folder)
    }

    /// With the buckets of a folder.
    fn serve(folder: Folder) -> ObjectStorage {
        let port = free_port();
        let log = folder.path().join("log");
        let out = std::fs::File::create(&log).unwrap();
        let child = Command::new(versitygw())
            .args(["--access", ACCESS, "--secret", SECRET, "--port"])
            .arg(format!("127.0.0.1:{port}"))
            .arg("posix")
            .arg(folder.path())
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .expect("versitygw runs: scripts/test installs it");
        let _at_exit = AtExit::run(format!("kill {} 2>/dev/null", child.id()));
        eventually(
            || TcpStream::connect(("127.0.0.1", port)).ok(),
            || std::fs::read_to_string(&log).unwrap_or_default(),
        );
        ObjectStorage { port, child, folder, _at_exit }
    }

    fn location(&self, path: &str) -> serde_json::Value {
        json!(["S3Storage", {
            "s3_bucket": BUCKET, "storage_path": path, "s3_access_key": ACCESS,
            "s3_secret_key": SECRET, "endpoint_url": format!("http://127.0.0.1:{}", self.port),
        }])
    }
}

impl Drop for ObjectStorage {
    fn drop(&mut self) {
        signal(&self.child, "TERM");
        wait(&mut self.child, "versitygw");
    }
}

/// Where scripts/test puts it: beside the build.
fn versitygw() -> PathBuf {
    let target = Path::new(env!("CARGO_BIN_EXE_quay")).parent().and_then(Path::parent);
    let ours = target.expect("a target folder").join("tools/versitygw");
    if ours.exists() { ours } else { "versitygw".into() }
}

fn moved(prefix: &str, path: &str) -> (World, ObjectStorage) {
    let mut world = World::new();
    let storage = ObjectStorage::start(&world, prefix);
    world.configure("DISTRIBUTED_STORAGE_CONFIG", json!({"default": storage.location(path)}));
    (world, storage)
}

async fn blob(registryd: &Registryd, world: &World) -> Response {
    let layer = &world.public.manifest.layers()[0];
    let path = format!("/v2/demo/public/blobs/{}", layer.digest);
    http().get(registryd.url(&path)).send().await.unwrap()
}

fn location(response: &Response) -> String {
    response.headers()["location"].to_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_blob_is_fetched_from_where_we_send_to() {
    // The prefix as operators write it, and the one that the keys have.
    for (prefix, path) in [("quay/registry", "/quay/registry"), ("a/b", "a/b/")] {
        let (world, _storage) = moved(prefix, path);
        let registryd = world.registryd();
        let layer = &world.public.manifest.layers()[0];
        let response = blob(&registryd, &world).await;
        assert_eq!(response.status(), StatusCode::FOUND);
        for (name, value) in [
            ("docker-content-digest", layer.digest.as_str()),
            ("accept-ranges", "bytes"),
            ("cache-control", "max-age=31536000"),
            ("content-type", "text/html; charset=utf-8"),
        ] {
            assert_eq!(response.headers()[name], value);
        }
        let url = location(&response);
        let body = response.text().await.unwrap();
        assert!(body.contains(&url.replace('&', "&amp;")), "{body}");
        let fetched = http().get(&url).send().await.unwrap();
        assert_eq!(fetched.status(), StatusCode::OK, "{url}");
        assert_eq!(fetched.bytes().await.unwrap(), layer.bytes);
        // The storage does verify: another blob, another time or another key is refused.
        let other = url.replace("X-Amz-Expires=600", "X-Amz-Expires=601");
        assert_eq!(http().get(other).send().await.unwrap().status(), StatusCode::FORBIDDEN);
        let (object, query) = url.split_once('?').unwrap();
        let object = format!("{}0{}", &object[..object.len() - 1], "");
        let bent = http().get(format!("{object}?{query}")).send().await.unwrap();
        assert_eq!(bent.status(), StatusCode::FORBIDDEN);
        let plain = http().get(url.split('?').next().unwrap()).send().await.unwrap();
        assert_eq!(plain.status(), StatusCode::FORBIDDEN);
        // One statement, and nothing asked of the storage.
        let statements = || registryd.metric("db_statements_total{route=\"blob\"}");
        let before = statements();
        blob(&registryd, &world).await;
        assert!((statements() - before - 1.0).abs() < f64::EPSILON);
        assert!(!registryd.logs().contains(SECRET) && !registryd.logs().contains("Signature="));
    }
}

#[tokio::test]
async fn heads_know_the_size_without_asking() {
    let (world, storage) = moved("x", "x");
    drop(storage);
    let registryd = world.registryd();
    let layer = &world.public.manifest.layers()[0];
    let path = format!("/v2/demo/public/blobs/{}", layer.digest);
    let head = http().head(registryd.url(&path)).send().await.unwrap();
    assert_eq!(head.status(), StatusCode::OK);
    assert_eq!(head.headers()["content-length"], layer.bytes.len().to_string());
    assert_eq!(head.headers()["accept-ranges"], "bytes");
}

/// A whole image, by a client that knows nothing of this.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_through_redirects() {
    let (mut world, arguments) = World::reachable();
    let storage = ObjectStorage::start(&world, "registry");
    world.configure("DISTRIBUTED_STORAGE_CONFIG", json!({"default": storage.location("registry")}));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let _registryd = world.registryd_with(&arguments);
    let folder = Folder::new();
    let pulled = folder.path().join("image");
    let copied = Command::new("skopeo")
        .args(["--insecure-policy", "copy", "-q", "--src-tls-verify=false", "--src-no-creds"])
        .arg(format!("docker://{}/demo/public:latest", world.hostname))
        .arg(format!("dir:{}", pulled.display()))
        .output()
        .expect("skopeo runs: install the package skopeo");
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    let layer = &world.public.manifest.layers()[0];
    let file = pulled.join(layer.digest.trim_start_matches("sha256:"));
    assert_eq!(std::fs::read(file).unwrap(), layer.bytes);
}

/// Preference decides between a bucket and a folder.
#[tokio::test]
async fn several_locations() {
    let mut world = World::new();
    let storage = ObjectStorage::start(&world, "x");
    world.database.sql(
        "INSERT INTO imagestoragelocation (name) VALUES ('bucket'); \
         INSERT INTO imagestorageplacement (storage_id, location_id) \
         SELECT s.id, l.id FROM imagestorage s, imagestoragelocation l WHERE l.name = 'bucket'",
    );
    let local = world.settings["DISTRIBUTED_STORAGE_CONFIG"]["default"].clone();
    let both = json!({"default": local, "bucket": storage.location("x")});
    world.configure("DISTRIBUTED_STORAGE_CONFIG", both);
    for (preference, expected) in [("bucket", StatusCode::FOUND), ("default", StatusCode::OK)] {
        world.configure("DISTRIBUTED_STORAGE_PREFERENCE", json!([preference]));
        let registryd = world.registryd();
        assert_eq!(blob(&registryd, &world).await.status(), expected, "{preference}");
    }
}

/// The signed URL, through Quay's nginx, with a token for it alone.
#[tokio::test]
async fn clients_may_not_reach_the_storage() {
    let (mut world, storage) = moved("x", "x");
    world.configure("FEATURE_PROXY_STORAGE", true.into());
    let registryd = world.registryd();
    let response = blob(&registryd, &world).await;
    assert_eq!(response.status(), StatusCode::FOUND);
    let url = location(&response);
    let base = format!("http://{}/_storage_proxy/", world.hostname);
    let rest = url.strip_prefix(&base).unwrap_or_else(|| panic!("{url}"));
    let [token, scheme, host, uri] = rest.splitn(4, '/').collect::<Vec<_>>()[..] else {
        panic!("{url}")
    };
    let layer = &world.public.manifest.layers()[0];
    let fetched = http().get(format!("{scheme}://{host}/{uri}")).send().await.unwrap();
    assert_eq!(fetched.bytes().await.unwrap(), layer.bytes);
    let token = String::from_utf8(URL_SAFE.decode(token).unwrap()).unwrap();
    let claims = token.split('.').nth(1).unwrap();
    let claims: serde_json::Value =
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
    let access = json!([{"type": "storageproxy", "uri": uri, "host": host, "scheme": scheme}]);
    assert_eq!((&claims["access"], &claims["context"]), (&access, &json!({})));
    assert_eq!((&claims["sub"], &claims["aud"]), (&"storageproxy".into(), &json!(world.hostname)));
    let lifetime = claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap();
    assert_eq!(lifetime, 600);
    // It opens nothing else.
    let manifest = registryd.url("/v2/demo/public/manifests/latest");
    let refused = http().get(manifest).bearer_auth(&token).send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    assert!(!registryd.logs().contains(&token));
    drop(storage);
}
