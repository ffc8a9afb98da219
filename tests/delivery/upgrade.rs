//! The image underneath is swapped for another release while we are installed; then we go.

use super::site::{Site, differences, may_run, snapshot};
use super::standin::{Release, image};

#[test]
fn another_release_underneath_and_out_again() {
    if !may_run() {
        return;
    }
    let site = Site::new(image(Release::Known), None);
    let (units, conf) = (site.units(), site.world.conf.clone());
    let before = [snapshot(&units), snapshot(&conf)];
    let as_before = || {
        let now = [snapshot(&units), snapshot(&conf)];
        let pairs = before.iter().zip(&now);
        let differ: Vec<String> = pairs.flat_map(|(b, now)| differences(b, now)).collect();
        assert_eq!(differ, [] as [String; 0]);
    };

    // A dry run says all, and does nothing.
    let said = site.says(&["install"]);
    let drop_in = units.join("quay-app.service.d/50-quay-sidecar.conf");
    assert!(said.contains(&format!("+++ {}", drop_in.display())), "{said}");
    assert!(said.contains("+EnvironmentFile=-"), "{said}");
    as_before();
    assert!(!site.home().exists());

    site.says(&["install", "--yes"]);
    site.start();
    assert!(site.log().contains("applied"), "{}", site.log());
    // Now the running container's own files are looked at.
    let again = site.says(&["install"]);
    assert!(again.contains("Quay v3.17.4") && again.contains("nothing to do"), "{again}");

    // What `mirror-registry upgrade` does: a unit of its own making, with another image.
    site.write_unit(image(Release::Other));
    site.start();
    let log = site.log();
    assert!(log.contains("applied") && log.contains("no log_format lb_logs"), "{log}");
    site.exec(&["switch", "set", "ROUTE_OWNER_CAP_V2_PULL=rust"]);
    site.until("rust");
    let status = site.says(&["status", "--json"]);
    let status: serde_json::Value = serde_json::from_str(status.trim()).unwrap();
    assert_eq!(status["running"], true);
    let owners = status["owners"].as_array().unwrap();
    let pull = owners.iter().find(|line| line["id"] == "V2_PULL").unwrap();
    assert_eq!(pull["owner"], "rust");
    assert!(status["files"].as_array().unwrap().iter().all(|file| file["condition"] == "intact"));

    // A release that we do not know: Quay starts, and everything is Python's.
    site.write_unit(image(Release::Unknown));
    site.start();
    let log = site.log();
    assert!(log.contains("has 8 proxy_pass directives"), "{log}");
    assert_eq!(site.owner(), "python");
    let refused = site.quay(&["install"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("not 7"), "{said}");

    let planned = site.says(&["uninstall"]);
    assert!(planned.contains(&format!("--- {}", drop_in.display())), "{planned}");
    assert!(drop_in.exists());
    site.says(&["uninstall", "--yes"]);
    site.write_unit(image(Release::Known));
    // Of what is not ours, only the operator's switches are new.
    let switches = conf.join("migration-switches.yaml");
    std::fs::remove_file(&switches).unwrap();
    as_before();
    assert!(!site.home().exists());
    site.start();
    let log = site.log();
    assert!(!log.contains("sidecar"), "{log}");
    let gone = site.quay(&["status"]);
    assert!(String::from_utf8_lossy(&gone.stdout).contains("not installed"), "{gone:?}");
}

/// Whoever removes our folder by hand keeps nobody's Quay from starting.
#[test]
fn without_our_folder_quay_starts_as_before() {
    if !may_run() {
        return;
    }
    let site = Site::new(image(Release::Known), None);
    site.says(&["install", "--yes"]);
    std::fs::remove_dir_all(site.home()).unwrap();
    site.start();
    assert!(!site.log().contains("quay-sidecar:"), "{}", site.log());
}
