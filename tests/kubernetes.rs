//! registryd as a service of its own on Kubernetes: what is rendered is held against the types of
//! Kubernetes, strictly, and its arguments are given to the real binary.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::support::{Folder, Pusher, Registryd, World, eventually, free_port, tool};

/// The one of docker/kubernetes.md, which a reader copies.
fn documented() -> Vec<String> {
    let page = fs::read_to_string("docker/kubernetes.md").unwrap();
    let (_, rest) = page.split_once("quay bundle render kubernetes").expect("the command");
    let (options, _) = rest.split_once(" >").expect("its output is kept");
    options.replace('\\', " ").split_whitespace().map(str::to_owned).collect()
}

fn render(conf: &Path, options: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quay"));
    command.args(["bundle", "render", "kubernetes", "--config"]).arg(conf);
    command.args(options).output().unwrap()
}

fn rendered(conf: &Path, options: &[&str]) -> String {
    let output = render(conf, options);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn refusal(conf: &Path, options: &[&str]) -> String {
    let output = render(conf, options);
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// A configuration with its blobs in a bucket.
fn with_a_bucket() -> Folder {
    let folder = Folder::new();
    let config = "SERVER_HOSTNAME: quay.example\nDB_URI: postgresql://quay@db/quay\n\
        SETUP_COMPLETE: true\nTESTING: false\nDATABASE_SECRET_KEY: key\n\
        DISTRIBUTED_STORAGE_CONFIG: {s3: [RHOCSStorage, {hostname: s3.example, access_key: a, \
        secret_key: b, bucket_name: quay, storage_path: /registry, is_secure: true}]}\n\
        DISTRIBUTED_STORAGE_PREFERENCE: [s3]\n";
    fs::write(folder.path().join("config.yaml"), config).unwrap();
    folder
}

fn objects(manifests: &str) -> Vec<Value> {
    manifests.split("\n---\n").map(|text| serde_saphyr::from_str(text).unwrap()).collect()
}

fn of_kind<'o>(objects: &'o [Value], kind: &str) -> &'o Value {
    let found = objects.iter().find(|object| object["kind"] == kind);
    found.unwrap_or_else(|| panic!("no {kind}"))
}

/// Every field is one of the type that it is in, by Kubernetes' own description of them.
fn assert_valid(manifests: &str) {
    let folder = Folder::new();
    let file = folder.path().join("quay-registryd.yaml");
    fs::write(&file, manifests).unwrap();
    let strict = |file: &Path| {
        let validate = tool("venv/bin/kubernetes-validate");
        Command::new(validate).args(["--strict", "-k", "1.37.0"]).arg(file).output().unwrap()
    };
    let found = strict(&file);
    assert!(found.status.success(), "{found:?}\n{manifests}");
    // It would have seen a field that there is not.
    fs::write(&file, manifests.replace("readOnlyRootFilesystem", "readOnlyRootFileSystem"))
        .unwrap();
    assert!(!strict(&file).status.success());
}

const NETWORK: [&str; 4] = ["--image", "quay.example/quay:v3.18", "--pod-network", "10.128.0.0/14"];

#[test]
fn the_documented_command_gives_valid_objects() {
    let conf = with_a_bucket();
    let documented = documented();
    let options: Vec<&str> = documented.iter().map(String::as_str).collect();
    let (config, options) = options.split_at(2);
    assert_eq!(config[0], "--config");
    let manifests = rendered(conf.path(), options);
    assert_valid(&manifests);
    let kinds: Vec<Value> =
        objects(&manifests).iter().map(|object| object["kind"].clone()).collect();
    assert_eq!(kinds, ["Service", "Deployment", "PodDisruptionBudget", "NetworkPolicy"]);
}

#[test]
fn it_runs_with_the_least_rights() {
    let conf = with_a_bucket();
    let options = [&NETWORK[..], &["--replicas", "1", "--monitoring", "monitoring"]].concat();
    let manifests = rendered(conf.path(), &options);
    assert_valid(&manifests);
    let objects = objects(&manifests);
    assert!(!manifests.contains("PodDisruptionBudget"), "one pod could never be moved");
    let pod = &of_kind(&objects, "Deployment")["spec"]["template"]["spec"];
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    let container = &pod["containers"][0];
    assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], false);
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
    assert_eq!(container["securityContext"]["capabilities"]["drop"][0], "ALL");
    for (probe, path) in [("readinessProbe", "/readyz"), ("livenessProbe", "/healthz")] {
        assert_eq!(container[probe]["httpGet"]["path"], path);
    }
    let mounts = container["volumeMounts"].as_array().unwrap();
    assert!(mounts.iter().all(|mount| mount["readOnly"] == true), "{mounts:?}");
    let ingress = &of_kind(&objects, "NetworkPolicy")["spec"]["ingress"];
    assert_eq!(ingress[0]["from"][0]["podSelector"]["matchLabels"]["app"], "quay");
    assert_eq!(ingress[1]["ports"][0]["port"], "admin");
}

#[test]
fn what_cannot_be_is_refused_with_its_name() {
    let conf = with_a_bucket();
    for (options, words) in [
        (["--namespace", "Quay"], "--namespace: \"Quay\" has the character 'Q'"),
        (["--quay-pods", "app=qu\"ay"], "--quay-pods: \"qu\\\"ay\" has the character '\"'"),
        (["--quay-pods", "app"], "not LABEL=VALUE"),
        (["--replicas", "0"], "--replicas: \"0\" would be no service"),
        (["--storage-claim", "blobs"], "no storage is a folder"),
        (["--monitoring", "a\nb"], "--monitoring: \"a\\nb\" has the character '\\n'"),
        (["--pod-network", "10.0.0.0/40"], "10.0.0.0/40"),
    ] {
        let said = refusal(conf.path(), &[&NETWORK[..], &options].concat());
        assert!(said.contains(words), "{options:?}: {said}");
    }
    let said = refusal(conf.path(), &["--image", "quay: {}", "--pod-network", "::/0"]);
    assert!(said.contains("--image: \"quay: {}\" has the character ' '"), "{said}");
    let sqlite = World::on_sqlite();
    assert!(refusal(&sqlite.conf, &NETWORK).contains("is a file of one machine"));
}

#[test]
fn blobs_in_a_folder_need_the_claim_of_their_volume() {
    let world = World::new();
    assert!(refusal(&world.conf, &NETWORK).contains("name the claim of its volume"));
    let manifests =
        rendered(&world.conf, &[&NETWORK[..], &["--storage-claim", "quay-blobs"]].concat());
    assert_valid(&manifests);
    let objects = objects(&manifests);
    let pod = &of_kind(&objects, "Deployment")["spec"]["template"]["spec"];
    assert_eq!(pod["volumes"][1]["persistentVolumeClaim"]["claimName"], "quay-blobs");
    let mounted = pod["containers"][0]["volumeMounts"][1]["mountPath"].as_str().unwrap();
    let config = fs::read_to_string(world.conf.join("config.yaml")).unwrap();
    assert!(mounted.starts_with('/') && config.contains(mounted), "{mounted}\n{config}");
}

/// The rendered command line, on ports of this machine, as a user that has no rights at all.
#[tokio::test]
async fn the_real_binary_serves_with_the_rendered_arguments() {
    let world = World::new();
    let options = [&NETWORK[..], &["--storage-claim", "quay-blobs"]].concat();
    let objects = objects(&rendered(&world.conf, &options));
    let container = &of_kind(&objects, "Deployment")["spec"]["template"]["spec"]["containers"][0];
    let port = free_port();
    let arguments = container["args"].as_array().unwrap().iter().map(|argument| {
        let argument = argument.as_str().unwrap();
        argument
            .replace("/etc/quay", world.conf.to_str().unwrap())
            .replace("0.0.0.0:8445", &format!("127.0.0.1:{port}"))
            .replace("10.128.0.0/14", "127.0.0.0/8")
            .replace("0.0.0.0:9192,public", "127.0.0.1:0")
    });
    let mut command = Command::new("setpriv");
    if rustix::process::geteuid().is_root() {
        let rights = ["--regid=0", "--clear-groups", "--bounding-set=-all", "--no-new-privs"];
        command.arg("--reuid=1000123").args(rights);
    }
    command.arg(env!("CARGO_BIN_EXE_quay")).args(arguments);
    let registryd = Registryd::try_run(command).unwrap_or_else(|(_, log)| panic!("{log}"));
    registryd.wait_until_ready();
    let answer = reqwest::get(registryd.url("/v2/")).await.unwrap();
    assert_eq!(answer.status(), 401);
}

/// Whoever is not where nginx is gets nothing, whatever headers are sent.
#[tokio::test]
async fn only_the_networks_of_nginx_are_answered() {
    let world = World::new();
    let registryd = Registryd::start(&world.conf, &["--listen", "127.0.0.1:0,nginx=10.0.0.0/8"]);
    let request = reqwest::Client::new().get(registryd.url("/v2/"));
    let answer = request.header("x-forwarded-for", "10.0.0.7").send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.text().await.unwrap()), (403, String::new()));
    let told = || registryd.logs().contains("not from the networks of nginx").then_some(());
    eventually(told, || registryd.logs());
}

/// nginx cannot ask Python with a body that it has not kept, and here there is no other way to Python.
#[tokio::test]
async fn an_upload_that_only_python_can_continue_is_refused_with_its_reason() {
    let world = World::with_own_storage();
    let registryd = Registryd::start(&world.conf, &["--listen", "127.0.0.1:0,nginx=127.0.0.0/8"]);
    let pusher = Pusher::new(&registryd, &world);
    let uuid = pusher.start().await;
    assert_eq!(pusher.patch(&uuid, "one").await.status(), 202);
    world.database.sql("UPDATE blobupload SET sha_state = 'gASV'");
    let refused = pusher.patch(&uuid, "two").await;
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"), "{refused:?}");
    assert!(!refused.headers().contains_key("x-accel-redirect"), "{refused:?}");
}
