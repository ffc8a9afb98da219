//! The clients that people use, with all that they ask before and after.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::World;
use crate::support::images::{Blob, DOCKER_LAYER, Manifest, OCI_LAYER, digest_of};
use crate::support::{Folder, Pusher, Registryd, free_port};

/// One that clients may push to, and somebody who may.
struct Site {
    world: World,
    registryd: Registryd,
    address: String,
    login: String,
    folder: Folder,
}

impl Site {
    fn new() -> Site {
        let mut world = World::with_own_storage();
        let address = format!("127.0.0.1:{}", free_port());
        world.reach(&address);
        let registryd = world.registryd_with(&["--listen", &address]);
        let login = format!("{}:{}", world.ada.username, world.ada.password);
        Site { world, registryd, address, login, folder: Folder::new() }
    }

    /// Runs a client, which has to succeed, and gives what it printed.
    fn run(&self, command: &mut Command) -> String {
        let output = command.output().expect("it runs: scripts/test installs what it is part of");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {said}\n{}", self.registryd.logs());
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Copies everything of `from` to `to`, which are skopeo's names.
    fn skopeo(&self, from: &str, to: &str) {
        let mut skopeo = Command::new("skopeo");
        // Its cache goes where our folder goes, whoever runs this.
        let cache = self.folder.path().join("cache");
        skopeo.env("_CONTAINERS_ROOTLESS_UID", "1").env("XDG_DATA_HOME", cache);
        skopeo.args(["--insecure-policy", "copy", "-q", "--all", "--preserve-digests"]);
        for (side, name) in [("src", from), ("dest", to)] {
            if name.starts_with("docker:") {
                skopeo.arg(format!("--{side}-tls-verify=false"));
                skopeo.arg(format!("--{side}-creds={}", self.login));
            }
        }
        self.run(skopeo.args([from, to]));
    }

    /// podman or buildah, with images of their own in the folder `store`. What they keep in places
    /// that are the machine's goes with the process.
    fn tool(&self, tool: &str, store: &str, args: &[&str]) -> String {
        let apart = "for folder in /var/lib/containers /run /dev/shm; do \
                mount -t tmpfs tmpfs $folder || exit; done; exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "--map-root-user", "sh", "-c", apart, "sh", tool]);
        command.args(["--storage-driver", "vfs", "--runroot", "/run/storage", "--root"]);
        self.run(command.arg(self.folder.path().join(store)).args(args))
    }

    fn name(&self, repository: &str, tag: &str) -> String {
        format!("{}/demo/{repository}:{tag}", self.address)
    }

    /// Everything under a tag as it is pulled, by digest: manifests and blobs. Each is what its
    /// digest says.
    async fn pulled(&self, repository: &str, tag: &str) -> BTreeMap<String, Vec<u8>> {
        let repository = format!("demo/{repository}");
        let pusher = Pusher::of(&self.registryd, &self.world, &self.world.ada, &repository);
        let (mut found, mut wanted) = (BTreeMap::new(), vec![(tag.to_owned(), true)]);
        while let Some((reference, is_manifest)) = wanted.pop() {
            let bytes = match is_manifest {
                true => pusher.manifest(&reference).await.unwrap().1.to_vec(),
                false => pusher.pull(&reference).await.unwrap(),
            };
            let digest = digest_of(&bytes);
            assert!(reference == tag || reference == digest, "{reference}");
            if is_manifest {
                let parsed: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
                for (part, is_manifest) in [("manifests", true), ("layers", false)] {
                    let parts = parsed[part].as_array().into_iter().flatten();
                    wanted.extend(
                        parts.map(|p| (p["digest"].as_str().unwrap().to_owned(), is_manifest)),
                    );
                }
                let config = parsed["config"]["digest"].as_str();
                wanted.extend(config.map(|digest| (digest.to_owned(), false)));
            }
            found.insert(digest, bytes);
        }
        found
    }
}

/// Every kind of image and artifact: what it is called here, and what it is.
fn kinds(world: &World) -> Vec<(&'static str, Manifest)> {
    let docker = |architecture: &str| {
        let layer = Blob::layer(DOCKER_LAYER, &[("hello", architecture)]);
        Manifest::docker(architecture, vec![layer])
    };
    let list = Manifest::docker_list(vec![("amd64", docker("amd64")), ("arm64", docker("arm64"))]);
    let zstd = Manifest::oci("amd64", vec![Blob::zstd_layer(&[("hello", "zstd")])]);
    let chart = Manifest::artifact(
        None,
        Blob::new("application/vnd.cncf.helm.config.v1+json", br#"{"name":"chart"}"#.to_vec()),
        vec![Blob::layer(
            "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
            &[("chart/Chart.yaml", "name: chart\n")],
        )],
    );
    let empty = || Blob::new("application/vnd.oci.empty.v1+json", b"{}".to_vec());
    let files = vec![
        Blob::new("text/plain", b"some text".to_vec()),
        Blob::new("application/octet-stream", vec![0, 159, 146, 150]),
    ];
    let artifact = Manifest::artifact(Some("application/vnd.example.files"), empty(), files);
    let several = Manifest::oci(
        "amd64",
        ["a", "b", "a"].map(|text| Blob::layer(OCI_LAYER, &[("file", text)])).to_vec(),
    );
    vec![
        ("oci", world.public.manifest.clone()),
        ("docker", world.docker.manifest.clone()),
        ("index", world.index.manifest.clone()),
        ("list", list),
        ("zstd", zstd),
        ("chart", chart),
        ("artifact", artifact),
        ("subject", Manifest::referrer("application/vnd.example.sbom", &world.public.manifest)),
        ("several", several),
    ]
}

/// Everything that a manifest is made of, by digest.
fn parts(manifest: &Manifest) -> BTreeMap<String, Vec<u8>> {
    let own = (manifest.digest.clone(), manifest.bytes.to_vec());
    let blobs = manifest.blobs.iter().map(|blob| (blob.digest.clone(), blob.bytes.to_vec()));
    std::iter::once(own).chain(blobs).chain(manifest.children.iter().flat_map(parts)).collect()
}

/// As skopeo's `dir:` has it.
fn write_dir(folder: &Path, manifest: &Manifest) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("version"), "Directory Transport Version: 1.1\n").unwrap();
    let manifests: Vec<&str> =
        manifest.children.iter().map(|child| child.digest.as_str()).collect();
    for (digest, bytes) in parts(manifest) {
        let hex = digest.trim_start_matches("sha256:");
        let name = match digest == manifest.digest {
            true => "manifest.json".to_owned(),
            false if manifests.contains(&digest.as_str()) => format!("{hex}.manifest.json"),
            false => hex.to_owned(),
        };
        fs::write(folder.join(name), bytes).unwrap();
    }
}

fn read_dir(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.file_name().is_some_and(|name| name != "version"));
    files.map(|path: PathBuf| fs::read(path).unwrap()).map(|b| (digest_of(&b), b)).collect()
}

/// Every kind, from a folder to a repository that the push makes, and back.
#[tokio::test(flavor = "multi_thread")]
async fn skopeo_copies_every_kind() {
    let site = Site::new();
    for (kind, manifest) in kinds(&site.world) {
        let [from, back] = ["from", "back"].map(|name| site.folder.path().join(name).join(kind));
        write_dir(&from, &manifest);
        fs::create_dir_all(&back).unwrap();
        let there = format!("docker://{}", site.name("by-skopeo", kind));
        site.skopeo(&format!("dir:{}", from.display()), &there);
        site.skopeo(&there, &format!("dir:{}", back.display()));
        assert!(read_dir(&back) == parts(&manifest), "{kind}");
        assert_eq!(fs::read(back.join("manifest.json")).unwrap(), manifest.bytes, "{kind}");
        assert!(site.pulled("by-skopeo", kind).await == parts(&manifest), "{kind}");
    }
    assert_eq!(
        site.world.database.sql(
            "SELECT v.name, p.user_id, o.name FROM repository r
             JOIN visibility v ON v.id = r.visibility_id
             JOIN repositorypermission p ON p.repository_id = r.id JOIN role o ON o.id = p.role_id
             WHERE r.name = 'by-skopeo'"
        ),
        format!("private|{}|admin", site.world.ada.id)
    );
}

/// From one repository of a registry to another: blobs are mounted, not sent.
#[tokio::test(flavor = "multi_thread")]
async fn skopeo_copies_within_the_registry() {
    let site = Site::new();
    let images = [
        ("latest", &site.world.public.manifest),
        ("docker", &site.world.docker.manifest),
        ("multi", &site.world.index.manifest),
    ];
    for (tag, manifest) in images {
        let from = format!("docker://{}", site.name("public", tag));
        let to = format!("docker://{}", site.name("copied", tag));
        site.skopeo(&from, &to);
        assert!(site.pulled("copied", tag).await == parts(manifest), "{tag}");
    }
}

/// They push what they have in their stores: layers that they pack themselves. What they say that
/// they have pushed is there, and comes back to an empty store as the same image.
async fn pushes_and_pulls(tool: &str) {
    let site = Site::new();
    let [tls, login] = ["--tls-verify=false".to_owned(), format!("--creds={}", site.login)];
    let to = format!("by-{tool}");
    let digest_file = site.folder.path().join("digest");
    let digest_option = format!("--digestfile={}", digest_file.display());
    for (kind, source, options) in [
        ("oci", "latest", &[][..]),
        ("docker", "docker", &[]),
        ("as-docker", "latest", &["--format=v2s2"]),
        ("as-oci", "docker", &["--format=oci"]),
    ] {
        let source = site.name("public", source);
        let id = site.tool(tool, "store", &["pull", "-q", &tls, &login, &source]);
        let there = site.name(&to, kind);
        let destination = format!("docker://{there}");
        let push = ["push", "-q", &tls, &login, &digest_option];
        site.tool(tool, "store", &[&push, options, &[&source, &destination]].concat());
        let pushed = fs::read_to_string(&digest_file).unwrap();
        let parts = site.pulled(&to, kind).await;
        assert!(parts.contains_key(pushed.trim()), "{kind}: {pushed}");
        let store = format!("empty-{kind}");
        let back = site.tool(tool, &store, &["pull", "-q", &tls, &login, &there]);
        // An image's id is the digest of its config, which changes with the format.
        assert!(parts.contains_key(&format!("sha256:{back}")), "{kind}: {back}");
        if options.is_empty() {
            assert_eq!(back, id, "{kind}");
        }
        // And by its digest.
        let by_digest = format!("{}/demo/{to}@{}", site.address, pushed.trim());
        let again = site.tool(tool, &store, &["pull", "-q", &tls, &login, &by_digest]);
        assert_eq!(again, back, "{kind}");
    }
    for (kind, of, media_type) in [("index", "multi", "oci"), ("list", "docker", "v2s2")] {
        let name = format!("localhost/{kind}");
        let source = format!("docker://{}", site.name("public", of));
        site.tool(tool, "store", &["manifest", "create", &name]);
        site.tool(tool, "store", &["manifest", "add", "--all", &tls, &login, &name, &source]);
        let format = format!("--format={media_type}");
        let there = format!("docker://{}", site.name(&to, kind));
        let push = ["manifest", "push", "-q", "--all", &tls, &login, &digest_option, &format];
        site.tool(tool, "store", &[&push[..], &[&name, &there]].concat());
        let pushed = fs::read_to_string(&digest_file).unwrap();
        let parts = site.pulled(&to, kind).await;
        assert!(parts.contains_key(pushed.trim()), "{kind}: {pushed}");
        // What is listed is what was pulled, to the byte.
        let original = match of {
            "multi" => &site.world.index.manifest,
            _ => &site.world.docker.manifest,
        };
        let listed: Vec<&Manifest> = match original.children.is_empty() {
            true => vec![original],
            false => original.children.iter().collect(),
        };
        for child in listed {
            for (digest, bytes) in self::parts(child) {
                assert!(parts.get(&digest) == Some(&bytes), "{kind}: {digest}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn podman_pushes_and_pulls() {
    pushes_and_pulls("podman").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn buildah_pushes_and_pulls() {
    pushes_and_pulls("buildah").await;
}
