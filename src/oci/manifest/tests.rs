use super::*;
use proptest::prelude::*;

const OCI_IMAGE: &str = ManifestType::OciImage.as_str();
const OCI_INDEX: &str = ManifestType::OciIndex.as_str();
const DOCKER_IMAGE: &str = ManifestType::DockerImage.as_str();
const DOCKER_LIST: &str = ManifestType::DockerList.as_str();

const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const OCI_FOREIGN: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
const DOCKER_FOREIGN: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";

fn digest(n: u8) -> String {
    format!("sha256:{}", format!("{n:x}").repeat(64))
}

/// A descriptor of `n` bytes and the digest that is all `n`.
fn descriptor(media_type: &str, n: u8, more: &str) -> String {
    let digest = digest(n);
    format!(r#"{{"mediaType":"{media_type}","size":{n},"digest":"{digest}"{more}}}"#)
}

/// An OCI image with config 1, these layers, and `more` members.
fn oci_image(layers: &[String], more: &str) -> String {
    let (config, layers) = (descriptor(OCI_IMAGE_CONFIG, 1, ""), layers.join(","));
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_IMAGE}","config":{config},"layers":[{layers}]{more}}}"#
    )
}

/// A schema 2 manifest with config 1, these layers, and `more` members.
fn docker_image(layers: &[String], more: &str) -> String {
    let (config, layers) = (descriptor(DOCKER_CONFIG, 1, ""), layers.join(","));
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{DOCKER_IMAGE}","config":{config},"layers":[{layers}]{more}}}"#
    )
}

fn list(media_type: &str, children: &[String], more: &str) -> String {
    let children = children.join(",");
    format!(r#"{{"schemaVersion":2,"mediaType":"{media_type}","manifests":[{children}]{more}}}"#)
}

const AMD64: &str = r#","platform":{"architecture":"amd64","os":"linux"}"#;

fn read(media_type: &str, body: &str) -> PushedManifest {
    PushedManifest::parse(media_type, body.as_bytes())
        .unwrap_or_else(|error| panic!("{error}: {body}"))
}

/// The message that a client gets.
fn refusal(media_type: &str, body: &str) -> String {
    match PushedManifest::parse(media_type, body.as_bytes()) {
        Ok(read) => panic!("taken: {read:?}"),
        Err(error) => error.parse_failure(),
    }
}

fn layer(n: u8) -> String {
    descriptor(OCI_LAYER, n, "")
}

/// The recorded exchanges 364 to 389, in miniature.
#[test]
fn what_quay_was_seen_to_take() {
    let image = read(OCI_IMAGE, &oci_image(&[layer(2)], ""));
    assert_eq!(image.media_type, ManifestType::OciImage);
    assert_eq!(image.config_media_type(), Some(OCI_IMAGE_CONFIG));
    assert_eq!(image.layers_compressed_size(), Some(2));
    assert!(image.is_image_config() && image.needs_config() && !image.is_list());
    assert_eq!((image.subject, image.artifact_type, image.annotations), (None, None, Vec::new()));

    let no_type =
        oci_image(&[layer(2)], "").replacen(&format!(r#""mediaType":"{OCI_IMAGE}","#), "", 1);
    assert_eq!(read(OCI_IMAGE, &no_type).layers.len(), 1);
    let spaced = oci_image(&[layer(2)], r#","extra":{"x":1}"#).replace(',', "\n  , ");
    assert_eq!(read(OCI_IMAGE, &spaced).layers.len(), 1);
    let custom = read(OCI_IMAGE, &oci_image(&[descriptor("application/x-custom", 2, "")], ""));
    assert_eq!(custom.layers[0].blob.media_type, "application/x-custom");
    let artifact = oci_image(&[], "").replace(OCI_IMAGE_CONFIG, "application/vnd.custom.v1+json");
    let artifact = read(OCI_IMAGE, &artifact);
    assert!(!artifact.is_image_config() && artifact.layers_compressed_size() == Some(0));

    let index = read(OCI_INDEX, &list(OCI_INDEX, &[descriptor(OCI_IMAGE, 4, AMD64)], ""));
    let [child] = index.children.as_slice() else { panic!("{index:?}") };
    assert_eq!((child.manifest.digest.clone(), child.manifest.size), (digest(4), 4));
    assert_eq!(child.platform.as_ref().map(|p| p.architecture.as_str()), Some("amd64"));
    assert!(index.is_list() && index.config.is_none() && index.layers_compressed_size().is_none());
    assert_eq!(index.local_blobs(), Ok(Vec::new()));
    assert_eq!(read(OCI_INDEX, &list(OCI_INDEX, &[], "")).children, []);

    let referrer = r#","artifactType":"application/x-sub","subject":"#.to_owned();
    let referrer = referrer + &descriptor(OCI_IMAGE, 9, "");
    let referrer = read(OCI_IMAGE, &oci_image(&[layer(2)], &referrer));
    assert_eq!(referrer.subject.map(|subject| subject.digest), Some(digest(9)));
    assert_eq!(referrer.artifact_type.as_deref(), Some("application/x-sub"));
}

#[test]
fn large_bodies() {
    let body =
        oci_image(&[layer(2)], &format!(r#","annotations":{{"pad":"{}"}}"#, "x".repeat(5 << 20)));
    assert_eq!(read(OCI_IMAGE, &body).annotations[0].1.len(), 5 << 20);
    let layers = vec![layer(2); 10_001];
    assert_eq!(read(OCI_IMAGE, &oci_image(&layers[1..], "")).layers.len(), 10_000);
    assert!(refusal(OCI_IMAGE, &oci_image(&layers, "")).contains("`layers` has too many items"));
}

/// The recorded exchanges 369 to 376, in miniature, and the rest of Quay's JSON schema.
#[test]
fn what_does_not_match_the_schema() {
    for (body, problem) in [
        ("{not json", "malformed manifest data: key must be a string at line 1 column 2"),
        ("", "malformed manifest data: EOF while parsing a value at line 1 column 0"),
        ("[]", "manifest data does not match schema: the document is a list"),
        (r#"{"schemaVersion":2}"#, "manifest data does not match schema: `config` is missing"),
        (
            r#"{"schemaVersion":1}"#,
            "manifest data does not match schema: `schemaVersion` has to be 2",
        ),
        (
            r#"{"schemaVersion":"2"}"#,
            "manifest data does not match schema: `schemaVersion` is a string",
        ),
        ("{}", "manifest data does not match schema: `schemaVersion` is missing"),
    ] {
        let refusal = refusal(OCI_IMAGE, body);
        assert!(refusal.starts_with(&format!("failed to parse manifest: {problem}")), "{refusal}");
    }
    let oci = oci_image(&[layer(2)], "");
    let refused = refusal(DOCKER_IMAGE, &oci);
    assert!(refused.contains(&format!("`mediaType` is `{OCI_IMAGE}` and has to be")), "{refused}");
    assert!(PushedManifest::parse("application/json", oci.as_bytes()).is_err());

    for (more, place) in [
        (r#","artifactType":1"#, "`artifactType` is a number"),
        (r#","annotations":null"#, "`annotations` is null"),
        (r#","annotations":{"a":1}"#, "`annotations.a` is a number"),
        (r#","subject":null"#, "`subject` is null"),
        (r#","subject":{}"#, "`subject.mediaType` is missing"),
    ] {
        let refused = refusal(OCI_IMAGE, &oci_image(&[layer(2)], more));
        assert!(refused.contains(place), "{refused}");
    }
}

#[test]
fn layers_of_oci_images() {
    for (layer, place) in [
        ("1".to_owned(), "schema: `layers[0]` is a number"),
        ("{}".to_owned(), "schema: `layers[0].size` is missing"),
        (descriptor("tar", 2, ""), "schema: `layers[0].mediaType` is not a media type"),
        (descriptor(&"a/b".repeat(86), 2, ""), "schema: `layers[0].mediaType` has more than 255"),
        (descriptor(OCI_LAYER, 2, r#","urls":null"#), "schema: `layers[0].urls` is null"),
        (descriptor(OCI_LAYER, 2, r#","urls":[1]"#), "schema: `layers[0].urls[0]` is a number"),
        (layer(2).replace("e\":2", "e\":\"2\""), "schema: `layers[0].size` is a string"),
        (layer(2).replace("e\":2", "e\":2.5"), "schema: `layers[0].size` is not a whole number"),
        (
            layer(2).replace("e\":2", "e\":-2"),
            "manifest: invalid layer size: `layers[0].size` is -2",
        ),
        (layer(2).replace(&digest(2), "x"), "manifest: could not parse manifest digest: x"),
        (descriptor(OCI_FOREIGN, 2, ""), "manifest: missing `urls` for remote layer: layers[0]"),
    ] {
        let refused = refusal(OCI_IMAGE, &oci_image(&[layer], ""));
        assert!(refused.contains(place), "{refused}");
    }
    let huge = layer(2).replace("e\":2", &format!("e\":{}", i64::MAX));
    assert_eq!(
        read(OCI_IMAGE, &oci_image(std::slice::from_ref(&huge), "")).layers[0].blob.size,
        i64::MAX
    );
    let refused = refusal(OCI_IMAGE, &oci_image(&[huge, layer(2)], ""));
    assert!(refused.contains("`layers` have more bytes together"), "{refused}");
}

/// The recorded exchange 384: an ordinary layer with `urls` has to be there all the same.
#[test]
fn foreign_layers() {
    let urls = r#","urls":["https://x/y"]"#;
    let blobs = |manifest: &PushedManifest| -> Vec<String> {
        manifest.local_blobs().unwrap().iter().map(Digest::to_string).collect()
    };
    let oci =
        [layer(2), descriptor(OCI_LAYER, 4, urls), descriptor(OCI_FOREIGN, 5, urls), layer(2)];
    let oci = read(OCI_IMAGE, &oci_image(&oci, ""));
    assert_eq!(blobs(&oci), [digest(2), digest(4), digest(1)]);
    assert_eq!(oci.layers_compressed_size(), Some(2 + 4 + 5 + 2));

    let ordinary = |n, more: &str| descriptor(DOCKER_LAYER, n, more);
    let docker = [
        ordinary(2, r#","urls":[]"#),
        ordinary(3, r#","urls":null"#),
        ordinary(4, urls),
        descriptor(DOCKER_FOREIGN, 5, urls),
    ];
    let docker = read(DOCKER_IMAGE, &docker_image(&docker, ""));
    assert_eq!(blobs(&docker), [digest(2), digest(3), digest(1)]);
    assert_eq!(docker.layers_compressed_size(), Some(2 + 3 + 4 + 5));
}

#[test]
fn digests_that_no_blob_can_have() {
    let sha512 = format!("sha512:{}", "ab".repeat(64));
    let body = oci_image(&[layer(2).replace(&digest(2), &sha512)], "");
    let unknown = read(OCI_IMAGE, &body).local_blobs().unwrap_err();
    assert!(unknown.to_string().starts_with("Unknown blob `sha512:abab"), "{unknown}");
    let child =
        list(OCI_INDEX, &[descriptor(OCI_IMAGE, 4, AMD64).replace(&digest(4), &sha512)], "");
    assert_eq!(read(OCI_INDEX, &child).children[0].manifest.content(), None);
    let upper = digest(0xa).to_uppercase().replace("SHA", "sha");
    let body = oci_image(&[layer(0xa).replace(&digest(0xa), &upper)], "");
    assert!(read(OCI_IMAGE, &body).local_blobs().is_err());
}

#[test]
fn dockers_types_are_stricter() {
    let image = docker_image(&[descriptor(DOCKER_LAYER, 2, "")], r#","subject":1,"annotations":1"#);
    let image = read(DOCKER_IMAGE, &image);
    assert!(image.is_image_config() && image.subject.is_none() && image.annotations.is_empty());
    let no_type =
        docker_image(&[], "").replacen(&format!(r#""mediaType":"{DOCKER_IMAGE}","#), "", 1);
    assert!(refusal(DOCKER_IMAGE, &no_type).contains("`mediaType` is missing"));
    let oci_layer = docker_image(&[layer(2)], "");
    assert!(refusal(DOCKER_IMAGE, &oci_layer).contains("`layers[0].mediaType` is"));
    let oci_config = docker_image(&[], "").replace(DOCKER_CONFIG, OCI_IMAGE_CONFIG);
    assert!(refusal(DOCKER_IMAGE, &oci_config).contains("`config.mediaType` is"));
    let no_urls = docker_image(&[descriptor(DOCKER_FOREIGN, 2, r#","urls":[]"#)], "");
    assert!(refusal(DOCKER_IMAGE, &no_urls).contains("missing `urls` for remote layer"));

    let schema1 = "application/vnd.docker.distribution.manifest.v1+json";
    let children = [descriptor(DOCKER_IMAGE, 4, AMD64), descriptor(schema1, 5, AMD64)];
    assert_eq!(read(DOCKER_LIST, &list(DOCKER_LIST, &children, "")).children.len(), 2);
    let oci = list(DOCKER_LIST, &[descriptor(OCI_IMAGE, 4, AMD64)], "");
    assert!(refusal(DOCKER_LIST, &oci).contains("`manifests[0].mediaType` is"));
    let bare = list(DOCKER_LIST, &[descriptor(DOCKER_IMAGE, 4, "")], "");
    assert!(refusal(DOCKER_LIST, &bare).contains("`manifests[0].platform` is missing"));
}

#[test]
fn platforms_are_whole_or_absent() {
    let index = |platform: &str| {
        let platform = format!(r#","platform":{platform}"#);
        list(OCI_INDEX, &[descriptor(OCI_IMAGE, 4, &platform)], "")
    };
    assert_eq!(
        read(OCI_INDEX, &list(OCI_INDEX, &[descriptor("x/y", 4, "")], "")).children[0].platform,
        None
    );
    let rest = r#""os":"windows","os.version":"10","os.features":["win32k"],"variant":"v7","x":1"#;
    read(OCI_INDEX, &index(&format!(r#"{{"architecture":"arm",{rest}}}"#)));
    for (platform, place) in [
        ("null", "platform` is null"),
        (r#"{"os":"linux"}"#, "platform.architecture` is missing"),
        (r#"{"architecture":"arm"}"#, "platform.os` is missing"),
        (r#"{"architecture":"arm","os":1}"#, "platform.os` is a number"),
        (r#"{"architecture":"arm","os":"linux","variant":7}"#, "platform.variant` is a number"),
        (r#"{"architecture":"arm","os":"linux","OS":"x"}"#, "platform.OS` is read as `os` by some"),
    ] {
        let refused = refusal(OCI_INDEX, &index(platform));
        assert!(refused.contains(place), "{refused}");
    }
}

/// CVE-2021-41190: what one client takes for an image is an index to another.
#[test]
fn nothing_can_be_read_in_two_ways() {
    let (image, index) = (oci_image(&[layer(2)], ""), list(OCI_INDEX, &[], ""));
    let with = |body: &str, more: &str| format!("{},{more}}}", &body[..body.len() - 1]);
    let config = format!(r#""config":{}"#, descriptor(OCI_IMAGE_CONFIG, 3, ""));
    for (media_type, body, more) in [
        (OCI_IMAGE, &image, r#""manifests":[]"#),
        (OCI_IMAGE, &image, r#""Manifests":[]"#),
        (OCI_IMAGE, &image, r#""fsLayers":[]"#),
        (OCI_IMAGE, &image, r#""layers":[]"#),
        (OCI_IMAGE, &image, r#""Layers":[]"#),
        (OCI_IMAGE, &image, r#""schemaVersion":2"#),
        (OCI_IMAGE, &image, r#""annotations":{"a":"1","a":"2"}"#),
        (OCI_IMAGE, &image, &config),
        (OCI_INDEX, &index, r#""layers":[]"#),
        (OCI_INDEX, &index, r#""manifests":[]"#),
        (OCI_INDEX, &index, &config),
    ] {
        read(media_type, body);
        let refused = refusal(media_type, &with(body, more));
        assert!(refused.contains("does not match schema: `"), "{refused}");
    }
    read(OCI_IMAGE, &with(&image, r#""manifests":null"#));
    for more in
        [r#","digest":"x""#, r#","Digest":"x""#, r#","size":3"#, r#","media\u0054ype":"a/b""#]
    {
        let body = oci_image(&[descriptor(OCI_LAYER, 2, more)], "");
        assert!(refusal(OCI_IMAGE, &body).contains("`layers[0]."), "{body}");
    }
}

const CONFIG: &str = r#"{"architecture":"amd64","os":"linux","config":{"Labels":{"maintainer":"fx","a":"1"}},"rootfs":{"type":"layers","diff_ids":[]},"history":[]}"#;

fn keys(labels: &[Label]) -> Vec<(&str, &str)> {
    labels.iter().map(|label| (label.key.as_str(), label.value.as_str())).collect()
}

fn sized(body: &str, config: &str) -> String {
    body.replacen(r#""size":1"#, &format!(r#""size":{}"#, config.len()), 1)
}

#[test]
fn labels_are_those_of_the_config_under_the_annotations() {
    let annotations = r#","annotations":{"com.example.k":"v","a":"2"}"#;
    let image = read(OCI_IMAGE, &sized(&oci_image(&[], annotations), CONFIG));
    let labels = image.labels(Some(CONFIG.as_bytes())).unwrap();
    assert_eq!(keys(&labels), [("maintainer", "fx"), ("a", "2"), ("com.example.k", "v")]);

    let artifact = oci_image(&[], annotations).replace(OCI_IMAGE_CONFIG, "application/x");
    let artifact = read(OCI_IMAGE, &artifact);
    assert!(!artifact.needs_config());
    assert_eq!(keys(&artifact.labels(None).unwrap()), [("com.example.k", "v"), ("a", "2")]);

    let docker = read(DOCKER_IMAGE, &sized(&docker_image(&[], annotations), CONFIG));
    let labels = docker.labels(Some(CONFIG.as_bytes())).unwrap();
    assert_eq!(keys(&labels), [("maintainer", "fx"), ("a", "1")]);

    let index = read(OCI_INDEX, &list(OCI_INDEX, &[], annotations));
    assert_eq!((index.annotations.len(), index.labels(None)), (2, Ok(Vec::new())));
}

#[test]
fn a_config_that_is_not_the_one_described() {
    let image = read(OCI_IMAGE, &oci_image(&[], ""));
    assert_eq!(image.labels(None), Err(ManifestError::NoConfig));
    assert_eq!(
        image.labels(Some(b"{}")).unwrap_err().to_string(),
        "Size of config does not match that retrieved: 2 vs 1"
    );
    assert_eq!(
        image.labels(Some(b"x")).unwrap_err().to_string(),
        "malformed config data: expected value at line 1 column 1"
    );
}

#[test]
fn a_child_is_read_as_its_parent_describes_it() {
    let body = oci_image(&[layer(2)], "");
    let size = i64::try_from(body.len()).unwrap();
    let child = |media_type: &str, size| Descriptor {
        media_type: media_type.to_owned(),
        digest: digest(4),
        size,
    };
    let read =
        |child| PushedManifest::parse_child(&child, body.as_bytes()).map_err(|e| e.to_string());
    assert_eq!(read(child(OCI_IMAGE, size)).map(|child| child.layers.len()), Ok(1));
    let expected = format!("Size of manifest does not match that retrieved: {size} vs 3");
    assert_eq!(read(child(OCI_IMAGE, 3)), Err(expected));
    assert!(read(child(OCI_INDEX, size)).unwrap_err().starts_with("manifest data does not match"));
    assert!(read(child("a/b", size)).unwrap_err().starts_with("Unknown or unsupported manifest"));
}

fn any_media_type() -> impl Strategy<Value = ManifestType> {
    proptest::sample::select(ManifestType::ALL.to_vec())
}

proptest! {
    #[test]
    fn no_body_panics(media_type in any_media_type(), bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = PushedManifest::parse(media_type.as_str(), &bytes);
    }

    /// One piece of a manifest that is fine, put in place of another: mostly still JSON.
    #[test]
    fn no_damage_panics(
        media_type in any_media_type(),
        cut in 0_usize..1_000,
        length in 0_usize..40,
        put in "[\\[\\]{}\",:]{0,4}|null|-1|1e9|\"x\"|\\{\\}|\\[\\]",
    ) {
        let body = match media_type {
            ManifestType::OciImage => oci_image(&[layer(2), layer(3)], r#","annotations":{"a":"b"}"#),
            ManifestType::DockerImage => docker_image(&[descriptor(DOCKER_LAYER, 2, "")], ""),
            ManifestType::OciIndex => list(OCI_INDEX, &[descriptor(OCI_IMAGE, 4, AMD64)], ""),
            ManifestType::DockerList => list(DOCKER_LIST, &[descriptor(DOCKER_IMAGE, 4, AMD64)], ""),
        };
        prop_assert!(PushedManifest::parse(media_type.as_str(), body.as_bytes()).is_ok());
        let cut = cut % body.len();
        let rest = (cut + length).min(body.len());
        let damaged = format!("{}{put}{}", &body[..cut], &body[rest..]);
        if let Ok(read) = PushedManifest::parse(media_type.as_str(), damaged.as_bytes()) {
            prop_assert!(read.layers.iter().all(|layer| layer.blob.size >= 0));
            prop_assert_eq!(read.is_list(), read.config.is_none());
            prop_assert!(serde_json::from_str::<serde_json::Value>(&damaged).is_ok());
        }
    }

    #[test]
    fn what_is_written_is_read(sizes in proptest::collection::vec(0_u8..16, 0..20), text in ".{1,40}") {
        let text = text.replace('\0', "");
        let layers: Vec<String> = sizes.iter().map(|n| layer(*n)).collect();
        let annotations = serde_json::json!({ text.as_str(): text.as_str() });
        let body = oci_image(&layers, &format!(r#","annotations":{annotations}"#));
        let read = read(OCI_IMAGE, &body);
        prop_assert_eq!(read.layers_compressed_size(), Some(sizes.iter().map(|n| i64::from(*n)).sum()));
        let digests: Vec<String> = sizes.iter().map(|n| digest(*n)).collect();
        prop_assert!(read.layers.iter().map(|layer| &layer.blob.digest).eq(&digests));
        prop_assert_eq!(read.annotations, vec![(text.clone(), text)]);
    }
}
