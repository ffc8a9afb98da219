//! What nobody refers to any more gives its room back, and nothing else does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use quay_sidecar::gc::STEPS;
use reqwest::StatusCode;

use super::*;
use crate::support::images::digest_of;

const REPO: &str = "admin/app";

impl Own {
    /// A setting for the next start.
    fn set(&self, line: &str) {
        self.configure(|config| format!("{config}{line}\n"));
    }

    fn configure(&self, change: impl FnOnce(&str) -> String) {
        let path = self.path("config.yaml");
        let config = fs::read_to_string(&path).unwrap();
        let changed = change(&config);
        assert_ne!(changed, config);
        fs::write(path, changed).unwrap();
    }

    /// Whatever has ended, or ever will, did so long ago; all files are as old.
    fn age(&self) {
        self.execute(
            "UPDATE tag SET lifetime_end_ms = id WHERE lifetime_end_ms IS NOT NULL;
             UPDATE uploadedblob SET expires_at = '2000-01-01 00:00:00';
             UPDATE blobupload SET created = '2000-01-01 00:00:00'",
        );
        let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        for path in self.stored().into_values() {
            fs::File::options().write(true).open(path).unwrap().set_modified(long_ago).unwrap();
        }
    }

    /// The files of the storage, by name.
    fn stored(&self) -> BTreeMap<String, PathBuf> {
        let mut files = BTreeMap::new();
        collect(&self.path("storage"), &mut files);
        let files = files.into_keys().filter(|path| path.is_file());
        files.map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), path)).collect()
    }

    fn has(&self, blob: &Blob) -> bool {
        let hex = blob.digest.strip_prefix("sha256:").unwrap();
        let rows =
            format!("SELECT count(*) FROM imagestorage WHERE content_checksum = '{}'", blob.digest);
        let (row, file) = (self.sql(&rows) == "1", self.stored().contains_key(hex));
        assert_eq!(row, file, "{}: row and file", blob.digest);
        file
    }

    /// Whether there is a manifest of this digest, alive or not.
    fn knows(&self, manifest: &Manifest) -> bool {
        let digest = &manifest.digest;
        self.sql(&format!("SELECT count(*) FROM manifest WHERE digest = '{digest}'")) == "1"
    }

    /// Starts it, and waits until it has collected what there is.
    fn run_once(&self) -> Registryd {
        let registryd = self.start(&[]);
        eventually(
            || (registryd.metric("quay_gc_iterations_total") >= 1.0).then_some(()),
            || registryd.logs(),
        );
        registryd
    }

    /// Runs it until there is nothing more to collect, with all the time in the world between.
    fn collect_all(&self) {
        loop {
            self.age();
            let registryd = self.run_once();
            let removed = registryd.metric("quay_gc_table_rows_deleted_total");
            if removed == 0.0 {
                return;
            }
        }
    }

    /// Every row has what it refers to, and every blob its bytes.
    fn assert_whole(&self) {
        assert_eq!(self.sql("PRAGMA integrity_check"), "ok");
        let dangling = "SELECT count(*) FROM pragma_foreign_key_check()";
        assert_eq!(self.sql(dangling), "0");
        let stored = self.stored();
        for digest in self.blobs() {
            let file = stored.get(digest.strip_prefix("sha256:").unwrap());
            let bytes = fs::read(file.unwrap_or_else(|| panic!("{digest} has no bytes"))).unwrap();
            assert_eq!(digest_of(&bytes), digest);
        }
    }

    /// The digests of all rows of blobs.
    fn blobs(&self) -> BTreeSet<String> {
        let all = self.sql("SELECT coalesce(group_concat(content_checksum), '') FROM imagestorage");
        all.split(',').filter(|digest| !digest.is_empty()).map(str::to_owned).collect()
    }

    /// No file is there without a row.
    fn assert_tidy(&self) {
        let named: BTreeSet<String> =
            self.blobs().iter().map(|d| d.strip_prefix("sha256:").unwrap().to_owned()).collect();
        let stored: BTreeSet<String> = self.stored().into_keys().collect();
        assert_eq!(stored, named);
    }
}

async fn assert_pulls(pusher: &Pusher<'_>, reference: &str, image: &Manifest) {
    let (_, bytes) = pusher.manifest(reference).await.unwrap();
    assert_eq!(bytes, image.bytes);
    for blob in &image.blobs {
        assert_eq!(pusher.pull(&blob.digest).await.unwrap(), blob.bytes);
    }
}

fn layer(text: &str) -> Blob {
    Blob::layer(OCI_LAYER, &[("file", text)])
}

async fn deleted(pusher: &Pusher<'_>, reference: &str) {
    assert_eq!(pusher.delete(reference).await.status(), StatusCode::ACCEPTED);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nothing_refers_to_goes() {
    let own = Own::new();
    let registryd = own.start(&[]);
    let secret = password(&registryd);
    let pusher = own.pusher(&registryd, &secret, REPO);
    let old = Manifest::oci("amd64", vec![layer("shared"), layer("old")]);
    let new = Manifest::oci("arm64", vec![layer("shared"), layer("new")]);
    pusher.push("v1", &old).await;
    pusher.push("v1", &new).await;
    // An index keeps its children, and takes them along.
    let [kept, gone] = ["kept", "gone"].map(|name| {
        let child = |arch| Manifest::oci(arch, vec![layer(&format!("{name} {arch}"))]);
        Manifest::index(vec![("amd64", child("amd64")), ("arm64", child("arm64"))])
    });
    pusher.push("kept", &kept).await;
    pusher.push("gone", &gone).await;
    deleted(&pusher, "gone").await;
    // What is referred to is kept, as in Quay; it goes after whatever refers to it.
    let [signed, unsigned] = ["signed", "unsigned"].map(image);
    let [signature, last] = [&signed, &unsigned].map(|image| Manifest::referrer("a/b", image));
    for (tag, image, referrer) in [("signed", &signed, &signature), ("unsigned", &unsigned, &last)]
    {
        pusher.push(tag, image).await;
        pusher.push(&referrer.digest, referrer).await;
        deleted(&pusher, tag).await;
    }
    deleted(&pusher, &last.digest).await;
    // The same blob in another repository stays there.
    let elsewhere = own.pusher(&registryd, &secret, "team/copy");
    let copy = Manifest::oci("amd64", vec![layer("old")]);
    elsewhere.push("latest", &copy).await;
    // Given up, and left by a crash.
    let abandoned = pusher.start().await;
    pusher.patch(&abandoned, "some bytes").await;
    drop(registryd);
    let uploads = own.path("storage/uploads");
    let stray = uuid::Uuid::new_v4().to_string();
    let lost = digest_of(b"lost");
    let hex = lost.strip_prefix("sha256:").unwrap();
    for (path, bytes) in [
        (uploads.join(&stray), "x"),
        (uploads.join(format!("{stray}.{}.reread", uuid::Uuid::new_v4().simple())), "x"),
        (own.path(&format!("storage/sha256/{}/{hex}", &hex[..2])), "lost"),
    ] {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    // Nothing is old yet.
    let before = own.stored();
    let registryd = own.run_once();
    assert_eq!(registryd.metric("quay_gc_table_rows_deleted_total"), 0.0);
    assert_eq!(own.stored(), before);
    drop(registryd);
    own.age();
    drop(own.run_once());
    // The manifests are gone; their blobs stay for those who were told that they are there.
    assert!(!own.knows(&old) && own.has(&layer("gone amd64")));
    own.collect_all();

    own.assert_whole();
    own.assert_tidy();
    for (manifest, there) in [
        (&old, false),
        (&new, true),
        (&kept, true),
        (&kept.children[0], true),
        (&gone, false),
        (&gone.children[0], false),
        (&gone.children[1], false),
        (&signed, true),
        (&signature, true),
        (&unsigned, false),
        (&last, false),
        (&copy, true),
    ] {
        assert_eq!(own.knows(manifest), there, "{}", String::from_utf8_lossy(&manifest.bytes));
    }
    for (text, there) in [
        ("shared", true),
        ("old", true),
        ("new", true),
        ("kept arm64", true),
        ("gone arm64", false),
    ] {
        assert_eq!(own.has(&layer(text)), there, "{text}");
    }
    assert_eq!(own.sql("SELECT count(*) FROM blobupload"), "0");
    let registryd = own.start(&[]);
    let pusher = own.pusher(&registryd, &secret, REPO);
    assert_pulls(&pusher, "v1", &new).await;
    assert_pulls(&pusher, &kept.children[1].digest, &kept.children[1]).await;
    // Gone is gone; the same push again brings it back.
    assert_eq!(pusher.pull(&gone.children[0].blobs[0].digest).await, Err(StatusCode::NOT_FOUND));
    pusher.push("gone", &gone).await;
    assert_pulls(&pusher, &gone.children[0].digest, &gone.children[0]).await;
    assert_pulls(&own.pusher(&registryd, &secret, "team/copy"), "latest", &copy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_says_when() {
    let own = Own::new();
    let registryd = own.start(&[]);
    let secret = password(&registryd);
    let pusher = own.pusher(&registryd, &secret, "team/app");
    pusher.push("v1", &image("v1")).await;
    deleted(&pusher, "v1").await;
    // Two hours ago: within the window, though nobody is in the middle of a pull any more.
    own.execute("UPDATE tag SET lifetime_end_ms = lifetime_end_ms - 7200000");
    drop(registryd);
    let windows = "SELECT group_concat(DISTINCT removed_tag_expiration_s) FROM \"user\"";
    drop(own.run_once());
    assert_eq!(own.sql(windows), "86400");
    assert!(own.knows(&image("v1")));
    own.configure(|config| config.replace("EXPIRATION: 1d", "EXPIRATION: 1h"));
    let registryd = own.run_once();
    assert_eq!(own.sql(windows), "3600");
    assert!(!own.knows(&image("v1")));
    assert!(registryd.logs().contains("garbage collected"), "{}", registryd.logs());
}

/// The disk of the storage is not mounted: nothing is taken for gone that is merely away.
#[tokio::test(flavor = "multi_thread")]
async fn a_storage_that_is_away() {
    let own = Own::new();
    let registryd = own.start(&[]);
    let secret = password(&registryd);
    let pusher = own.pusher(&registryd, &secret, REPO);
    pusher.push("v1", &image("v1")).await;
    pusher.patch(&pusher.start().await, "given up").await;
    deleted(&pusher, "v1").await;
    drop(registryd);
    own.age();
    let elsewhere = own.path("elsewhere");
    fs::rename(own.path("storage"), &elsewhere).unwrap();
    fs::create_dir(own.path("storage")).unwrap();
    let registryd = own.run_once();
    assert_eq!(registryd.metric("quay_gc_storage_bytes_deleted_total"), 0.0);
    assert!(registryd.logs().contains("is the storage mounted?"), "{}", registryd.logs());
    assert_eq!(own.sql("SELECT count(*) FROM blobupload"), "1");
    drop(registryd);
    fs::remove_dir(own.path("storage")).unwrap();
    fs::rename(&elsewhere, own.path("storage")).unwrap();
    assert!(!own.stored().is_empty());
    own.collect_all();
    own.assert_whole();
    own.assert_tidy();
    assert_eq!(own.stored(), BTreeMap::new());
}

/// The database of another registry names nothing of what is in the folder.
#[tokio::test(flavor = "multi_thread")]
async fn another_database_takes_nothing_away() {
    let (own, other) = (Own::new(), Own::new());
    let registryd = own.start(&[]);
    let secret = password(&registryd);
    own.pusher(&registryd, &secret, REPO).push("v1", &image("v1")).await;
    drop((registryd, other.start(&[])));
    own.age();
    let databases = [&own, &other].map(|one| one.path("quay.db").display().to_string());
    own.configure(|config| config.replace(&databases[0], &databases[1]));
    let before = own.stored();
    let confused = own.try_start(&[]).unwrap_or_else(|(status, log)| panic!("{status}: {log}"));
    let refused = || confused.logs().contains("no garbage is collected");
    eventually(|| refused().then_some(()), || confused.logs());
    drop(confused);
    assert_eq!(own.stored(), before);
    own.configure(|config| config.replace(&databases[1], &databases[0]));
    let registryd = own.run_once();
    assert_pulls(&own.pusher(&registryd, &secret, REPO), "v1", &image("v1")).await;
}

/// What is left is whole, and the next run takes the rest.
#[tokio::test(flavor = "multi_thread")]
async fn killed_at_every_step() {
    for step in STEPS {
        let own = Own::new();
        let registryd = own.start(&[]);
        let secret = password(&registryd);
        let pusher = own.pusher(&registryd, &secret, REPO);
        let kept = Manifest::oci("amd64", vec![layer("shared"), layer("kept")]);
        let dead = Manifest::oci("arm64", vec![layer("shared"), layer("dead")]);
        pusher.push("v1", &dead).await;
        pusher.push("v1", &kept).await;
        pusher.blob("never named").await;
        pusher.patch(&pusher.start().await, "given up").await;
        drop(registryd);
        let lost = digest_of(b"lost");
        let hex = lost.strip_prefix("sha256:").unwrap();
        let path = own.path(&format!("storage/sha256/{}/{hex}", &hex[..2]));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "lost").unwrap();
        own.age();

        let mut command = own.command(&[]);
        command.env("QUAY_SIDECAR_DIE_AT", step);
        if let Ok(dying) = Registryd::try_run(command) {
            eventually(
                || dying.admin_get("/healthz").is_none().then_some(()),
                || format!("{step}: it did not die: {}", dying.logs()),
            );
        }
        own.assert_whole();
        own.collect_all();
        own.assert_whole();
        own.assert_tidy();
        assert!(!own.knows(&dead) && !own.has(&layer("dead")), "{step}");
        let registryd = own.start(&[]);
        assert_pulls(&own.pusher(&registryd, &secret, REPO), "v1", &kept).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_in_the_middle_it_goes_on_later() {
    let own = Own::new();
    let registryd = own.start(&[]);
    let pusher = own.pusher(&registryd, &password(&registryd), REPO);
    let kept = image("kept");
    pusher.push("kept", &kept).await;
    drop(registryd);
    own.execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000) \
         INSERT INTO tag (name, repository_id, manifest_id, lifetime_start_ms, lifetime_end_ms, \
             tag_kind_id) \
         SELECT 'dead', t.repository_id, t.manifest_id, 0, n.i, t.tag_kind_id FROM n, tag t",
    );
    let mut registryd = own.start(&[]);
    assert!(registryd.terminate().success());
    own.assert_whole();
    let left = own.sql("SELECT count(*) FROM tag WHERE name = 'dead'");
    assert_ne!(left, "0", "it was too quick to be stopped");
    drop(own.run_once());
    assert_eq!(own.sql("SELECT count(*) FROM tag"), "1");
    assert!(own.knows(&kept));
}

/// Runs without a pause, over blobs that nothing protects for longer than a moment: a push may be
/// told that something is missing, but whatever is acknowledged is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_at_the_same_moment_loses_nothing() {
    let own = Own::new();
    let registryd = own.start(&[]);
    let secret = password(&registryd);
    drop(registryd);
    own.set("GARBAGE_COLLECTION_FREQUENCY: 0");
    let registryd = own.start(&[]);
    let going_on = Arc::new(AtomicBool::new(true));
    let ageing = std::thread::spawn({
        let (going_on, database) = (going_on.clone(), own.path("quay.db"));
        move || {
            let database = rusqlite::Connection::open(database).unwrap();
            database.busy_timeout(Duration::from_secs(10)).unwrap();
            while going_on.load(Ordering::Relaxed) {
                let aged = database.execute_batch(
                    "UPDATE uploadedblob SET expires_at = '2000-01-01 00:00:00';
                     UPDATE tag SET lifetime_end_ms = id WHERE lifetime_end_ms > id",
                );
                aged.unwrap();
                std::thread::yield_now();
            }
        }
    });
    // All of them share their blobs.
    let image = image("raced");
    let pushers = ["admin/a", "admin/b"].map(|repo| own.pusher(&registryd, &secret, repo));
    let mut acknowledged = 0;
    let collected = || registryd.metric("quay_gc_storage_blobs_deleted_total");
    while acknowledged < 30 || collected() < 10.0 {
        let pushes = pushers.iter().map(|pusher| async {
            for blob in &image.blobs {
                pusher.blob(blob.bytes.to_vec()).await;
            }
            if pusher.put("v1", &image).await.status() != StatusCode::CREATED {
                return 0;
            }
            assert_pulls(pusher, "v1", &image).await;
            deleted(pusher, "v1").await;
            1
        });
        acknowledged += futures_util::future::join_all(pushes).await.iter().sum::<i32>();
    }
    going_on.store(false, Ordering::Relaxed);
    ageing.join().unwrap();
    drop(pushers);
    drop(registryd);
    own.assert_whole();
}
