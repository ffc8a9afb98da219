//! Quay's SQLite file, shared with Python: who writes when, what is left alone, what a crash leaves.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use tokio::task::JoinHandle;

use crate::support::images::OCI_MANIFEST;
use crate::support::process::AtExit;
use crate::support::{Database, Image, Registryd, World, eventually, http};

/// Writes like Quay's Python: its pragmas, its retries, one row after the other until it is told to
/// stop; then says how many there are, and how often it gave up.
const PYTHON: &str = r#"
import sqlite3, sys, threading, time
db = sqlite3.connect(sys.argv[1], isolation_level=None)
for pragma in ("journal_mode=WAL", "busy_timeout=10000", "wal_autocheckpoint=1000",
               "synchronous=NORMAL"):
    db.execute("PRAGMA " + pragma)
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
written = lost = 0
while not stop.is_set():
    for attempt in range(5):
        try:
            db.execute("BEGIN")
            db.execute("""INSERT INTO logentry3 (kind_id, account_id, datetime, ip, metadata_json)
                          VALUES (1, 1, '2026-01-01 00:00:00', 'python', ?)""", (str(written),))
            db.execute("UPDATE tag SET reversion = NOT reversion WHERE name = 'v1'")
            db.execute("COMMIT")
            written += 1
            break
        except sqlite3.OperationalError as error:
            if db.in_transaction:
                db.execute("ROLLBACK")
            if "locked" not in str(error):
                raise
            time.sleep(0.1 * 2 ** attempt)
    else:
        lost += 1
    if written == 10:
        print("writing", flush=True)
    time.sleep(0.001)
print(written, lost, flush=True)
"#;

fn file(world: &World) -> PathBuf {
    match &world.database {
        Database::Sqlite { file, .. } => file.clone(),
        Database::Postgres(_) => unreachable!("these worlds are on SQLite"),
    }
}

struct Python {
    child: Child,
    said: BufReader<std::process::ChildStdout>,
    _at_exit: AtExit,
}

impl Python {
    /// Returns once it writes.
    fn start(file: &Path) -> Python {
        let mut child = Command::new("python3")
            .args(["-c", PYTHON])
            .arg(file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 runs: install the package python3");
        let _at_exit = AtExit::run(format!("kill {} 2>/dev/null", child.id()));
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        assert_eq!(line, "writing\n");
        Python { child, said, _at_exit }
    }

    /// How many rows it has written, and how many it could not.
    fn stop(mut self) -> (usize, usize) {
        drop(self.child.stdin.take());
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        assert!(self.child.wait().unwrap().success());
        let (written, lost) = line.trim().split_once(' ').expect("two numbers");
        (written.parse().unwrap(), lost.parse().unwrap())
    }
}

/// Clients that pull without end, each answer looked at.
struct Pulls {
    going_on: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    /// In milliseconds.
    longest: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Vec<String>>>,
}

impl Pulls {
    fn start(registryd: &Registryd, image: &Image) -> Pulls {
        let going_on = Arc::new(AtomicBool::new(true));
        let (answered, longest) = (Arc::<AtomicUsize>::default(), Arc::<AtomicU64>::default());
        let url = registryd.url(&format!("/v2/{}/manifests/{}", image.repo, image.tag));
        let clients = (0..8).map(|_| {
            let (going_on, answered) = (going_on.clone(), answered.clone());
            let (longest, url) = (longest.clone(), url.clone());
            tokio::spawn(async move {
                let (client, mut wrong) = (http(), Vec::new());
                while going_on.load(Ordering::Relaxed) {
                    let (request, asked) = (client.get(&url), Instant::now());
                    let request = request.header("Accept", OCI_MANIFEST);
                    match request.send().await {
                        Ok(answer) if answer.status() == StatusCode::OK => {
                            answered.fetch_add(1, Ordering::Relaxed);
                            let took = asked.elapsed().as_millis() as u64;
                            longest.fetch_max(took, Ordering::Relaxed);
                        }
                        Ok(answer) => wrong.push(answer.text().await.unwrap_or_default()),
                        // Killed.
                        Err(_) => break,
                    }
                }
                wrong
            })
        });
        let clients = clients.collect();
        Pulls { going_on, answered, longest, clients }
    }

    fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    /// How many were answered; every answer was the manifest.
    async fn stop(self) -> usize {
        self.going_on.store(false, Ordering::Relaxed);
        for client in self.clients {
            assert_eq!(client.await.unwrap(), Vec::<String>::new());
        }
        self.answered.load(Ordering::Relaxed)
    }
}

async fn until(pulls: &Pulls, answered: usize) {
    while pulls.answered() < answered {
        assert!(pulls.clients.iter().any(|client| !client.is_finished()), "nobody pulls any more");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn count(world: &World, condition: &str) -> usize {
    let count = format!("SELECT count(*) FROM logentry3 WHERE {condition}");
    world.database.sql(&count).parse().unwrap()
}

fn assert_sound(world: &World) {
    assert_eq!(world.database.sql("PRAGMA integrity_check"), "ok");
    assert_eq!(world.database.sql("PRAGMA journal_mode"), "wal");
}

#[tokio::test(flavor = "multi_thread")]
async fn python_and_we_write_in_turns() {
    let world = World::on_sqlite();
    let registryd = world.registryd();
    let python = Python::start(&file(&world));
    let pulls = Pulls::start(&registryd, &world.public);
    let (began, log) = (Instant::now(), file(&world).with_extension("db-wal"));
    let mut longest_log = 0;
    for answered in (100..).step_by(100) {
        until(&pulls, answered).await;
        longest_log = longest_log.max(std::fs::metadata(&log).map_or(0, |log| log.len()));
        if answered >= 2000 && began.elapsed() >= Duration::from_secs(long("SECONDS", 0)) {
            break;
        }
    }
    let (took, longest) = (began.elapsed(), pulls.longest.clone());
    let (answered, (written, lost)) = (pulls.stop().await, python.stop());
    assert_eq!(lost, 0, "of {written} rows of Python's beside {answered} of ours");
    assert_eq!(count(&world, "ip = 'python'"), written);
    assert_eq!(count(&world, "ip <> 'python'"), answered);
    assert!(written > 50, "Python wrote {written} rows while we wrote {answered}");
    assert!(!registryd.logs().contains("locked"), "{}", registryd.logs());
    assert_sound(&world);
    // Many pulls share a transaction.
    let commits = registryd.metric("audit_batches_total{outcome=\"ok\"}");
    assert!(commits < answered as f64, "{commits} commits for {answered} pulls");
    println!(
        "{:.0} s beside Python: {answered} pulls answered and logged in {commits} commits, 0 \
         refused, longest wait {} ms; Python wrote {written} rows, {lost} given up; -wal at most \
         {:.1} MiB; integrity_check ok",
        took.as_secs_f64(),
        longest.load(Ordering::Relaxed),
        longest_log as f64 / f64::from(1 << 20)
    );
}

/// What `scripts/drill --sqlite` asks for, instead of what is enough for a test.
fn long(what: &str, short: u64) -> u64 {
    let name = format!("TEST_SQLITE_{what}");
    std::env::var(name).map_or(short, |number| number.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_loses_nothing_that_was_answered() {
    let world = World::on_sqlite();
    let python = Python::start(&file(&world));
    let (kills, mut answered, mut logged) = (long("KILLS", 5), 0, 0);
    for _ in 0..kills {
        let registryd = world.registryd();
        let pulls = Pulls::start(&registryd, &world.public);
        until(&pulls, 50).await;
        registryd.signal("KILL");
        answered += pulls.stop().await;
        assert_sound(&world);
        logged = count(&world, "ip <> 'python'");
        assert!(logged >= answered, "{answered} answered, {logged} logged");
    }
    let (written, lost) = python.stop();
    assert_eq!((count(&world, "ip = 'python'"), lost), (written, 0));
    println!(
        "{kills} kills beside Python: {answered} pulls answered, {logged} logged; Python wrote \
         {written} rows, {lost} given up; integrity_check ok each time"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_file_is_waited_for() {
    let world = World::on_sqlite();
    let registryd = world.registryd();
    let path = file(&world);
    let lock = rusqlite::Connection::open(&path).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let url = registryd.url("/v2/demo/public/manifests/latest");
    let pull = tokio::spawn(http().get(&url).header("Accept", OCI_MANIFEST).send());
    // Who only reads waits for nobody, and the pull has got as far as its row by then.
    eventually(
        || (registryd.metric("db_statements_total{route=\"audit\"}") > 0.0).then_some(()),
        || registryd.logs(),
    );
    let tags = http().get(registryd.url("/v2/demo/public/tags/list")).send().await.unwrap();
    assert_eq!(tags.status(), StatusCode::OK);
    assert!(!pull.is_finished(), "it was answered without its row");
    lock.execute_batch("COMMIT").unwrap();
    assert_eq!(pull.await.unwrap().unwrap().status(), StatusCode::OK);
    assert_eq!(count(&world, "true"), 1);
}

#[tokio::test]
async fn what_python_decided_stays() {
    let world = World::on_sqlite();
    let path = file(&world);
    let pull = async |registryd: &Registryd| {
        let url = registryd.url("/v2/demo/public/manifests/latest");
        http().get(url).header("Accept", OCI_MANIFEST).send().await.unwrap().status()
    };
    // No checkpoint, not even when we were the last that had it open.
    let before = std::fs::read(&path).unwrap();
    let mut registryd = world.registryd();
    for _ in 0..3 {
        assert_eq!(pull(&registryd).await, StatusCode::OK);
    }
    assert!(registryd.terminate().success());
    assert!(std::fs::read(&path).unwrap() == before, "the log was moved into the database");
    assert_eq!(count(&world, "true"), 3);
    // Another journal.
    world.database.sql("PRAGMA journal_mode = DELETE");
    let registryd = world.registryd();
    assert_eq!(pull(&registryd).await, StatusCode::OK);
    assert_eq!(world.database.sql("PRAGMA journal_mode"), "delete");
    assert_eq!(count(&world, "true"), 4);
}

#[tokio::test]
async fn a_file_that_is_away_comes_back() {
    let world = World::on_sqlite();
    let path = file(&world);
    // All of it is in one file, which can be moved.
    world.database.sql("PRAGMA journal_mode = DELETE");
    let registryd = world.registryd();
    let tags = async || {
        let url = registryd.url("/v2/demo/public/tags/list");
        http().get(url).send().await.unwrap().status()
    };
    assert_eq!(tags().await, StatusCode::OK);
    // A backup takes its place: what is in it counts, not what the old file said.
    let backup = path.with_extension("backup");
    std::fs::copy(&path, &backup).unwrap();
    rusqlite::Connection::open(&backup)
        .unwrap()
        .execute("UPDATE repository SET state = 3 WHERE name = 'public'", [])
        .unwrap();
    let old = path.with_extension("old");
    std::fs::rename(&path, &old).unwrap();
    assert_eq!(tags().await, StatusCode::SERVICE_UNAVAILABLE);
    assert!(!path.exists(), "it was made anew");
    std::fs::rename(&backup, &path).unwrap();
    assert_eq!(tags().await, StatusCode::UNAUTHORIZED);
    let mut broken = std::fs::File::create(&backup).unwrap();
    broken.write_all(&[b'x'; 4096]).unwrap();
    std::fs::rename(&backup, &path).unwrap();
    assert_eq!(tags().await, StatusCode::SERVICE_UNAVAILABLE);
    std::fs::rename(&old, &path).unwrap();
    assert_eq!(tags().await, StatusCode::OK);
}

#[test]
fn its_schema_is_checked() {
    let world = World::on_sqlite();
    let conf = world.conf.to_str().unwrap();
    let check = || {
        let quay = env!("CARGO_BIN_EXE_quay");
        let output = Command::new(quay).args(["db", "check", "--config", conf]).output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    let (good, said) = check();
    assert!(good && said.contains("V2_PULL: ok"), "{said}");
    world.database.sql("ALTER TABLE tag RENAME COLUMN hidden TO concealed");
    let (good, said) = check();
    assert!(!good && said.contains("tag.hidden: the column is missing"), "{said}");
    let registryd = Registryd::launch(&world.conf, &[]);
    eventually(
        || registryd.admin_get("/readyz").filter(|(_, body)| body.contains("tag.hidden")),
        || registryd.logs(),
    );
}

/// Earlier ones may lose rows when several processes write (design, "SQLite").
#[test]
fn it_is_a_version_without_the_bug() {
    assert!(rusqlite::version_number() >= 3_051_003, "{}", rusqlite::version());
}
