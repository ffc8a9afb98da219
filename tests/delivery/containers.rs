//! The whole story in containers, as the users that Quay's image is run as: the image's own (1001),
//! and OpenShift's, any number in group 0.

use super::site::{Site, may_run};
use super::standin::{self, Release};

const PULL: &str = "ROUTE_OWNER_CAP_V2_PULL";

const ANY_USER: &str = "1000123:0";

/// Pulls are Python's, then ours, then Python's again, under a load that notices nothing.
fn flips(site: &Site) {
    site.start();
    let log = site.log();
    assert!(log.contains("applied"), "{log}");
    let load = site.load();
    for owner in ["rust", "python", "rust"] {
        site.exec(&["switch", "set", &format!("{PULL}={owner}")]);
        site.until(owner);
    }
    // Roll everything back, whatever else is set.
    site.exec(&["switch", "set", "MIGRATION_FORCE_PYTHON=true"]);
    site.until("python");
    let (owners, failed) = load.stop();
    assert_eq!(failed, [] as [String; 0], "of {owners:?}\n{}", site.log());
    assert!(owners["rust"] > 10 && owners["python"] > 10, "{owners:?}");
}

#[test]
fn flips_in_the_derived_image() {
    for user in [None, Some(ANY_USER)].into_iter().filter(|_| may_run()) {
        flips(&Site::new(standin::derived(), user));
    }
}

#[test]
fn flips_with_two_mounts() {
    for user in [None, Some(ANY_USER)].into_iter().filter(|_| may_run()) {
        let site = Site::new(standin::image(Release::Known), user);
        let said = site.says(&["install", "--yes"]);
        assert!(said.contains("podman.env") && said.contains("installed"), "{said}");
        flips(&site);
        let status = site.says(&["status"]);
        assert!(status.contains("running") && status.contains("registryd ready"), "{status}");
    }
}

/// The derived image is its base, one program and one hook; nobody in it is root.
#[test]
fn the_derived_image_adds_two_files() {
    if !may_run() {
        return;
    }
    let inspect = |image: &str, what: &str| {
        let mut inspect = std::process::Command::new("podman");
        standin::run(inspect.args(["image", "inspect", "--format", what, image]))
    };
    let (base, derived) = (standin::image(Release::Known), standin::derived());
    for what in ["{{.Config.User}}", "{{.Config.Entrypoint}}", "{{.Config.Cmd}}", "{{.Config.Env}}"]
    {
        assert_eq!(inspect(base, what), inspect(derived, what), "{what}");
    }
    assert_eq!(inspect(derived, "{{.Config.User}}").trim(), "1001");
    let files = |image: &str| {
        let mut list = std::process::Command::new("sh");
        let script = "id=$(podman create \"$1\") && podman export \"$id\" | tar -tvf - | \
                      grep -v '/$' | sort -k6; podman rm \"$id\" >/dev/null";
        standin::run(list.args(["-c", script, "sh", image]))
    };
    let (base, derived) = (files(base), files(derived));
    let base: Vec<&str> = base.lines().collect();
    let added: Vec<&str> = derived.lines().filter(|line| !base.contains(line)).collect();
    let ends = ["quay-registry/conf/init/zzz_quay_sidecar.sh", "opt/quay-sidecar/bin/quay"];
    assert_eq!(added.len(), 2, "{added:#?}");
    for end in ends {
        let line = added.iter().find(|line| line.ends_with(end)).unwrap();
        assert!(line.starts_with("-rwxr-xr-x 0/0 ") || line.contains("root/root"), "{line}");
    }
}
