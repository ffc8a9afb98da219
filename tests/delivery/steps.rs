//! Installed, killed anywhere, run again, undone: what was not ours is as it was, byte for byte.

use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use quay_sidecar::delivery::{
    Error, Manifest, NewFile, Place, State, Step, Target, carry_out, install, uninstall,
};

use super::site::{Snapshot, differences, snapshot};
use crate::bundle::quay::{Quay, Variant};
use crate::support::Folder;

/// A machine with a Quay's tree on it, or its unit.
struct Machine {
    folder: Folder,
    target: Target,
}

impl Machine {
    fn with_unit(name: &str) -> Machine {
        let folder = Folder::new();
        let unit = folder.path().join("units").join(name);
        fs::create_dir(unit.parent().unwrap()).unwrap();
        fs::write(&unit, super::site::UNIT).unwrap();
        let target = match name.ends_with(".container") {
            true => Target::Quadlet(unit),
            false => Target::Service(unit),
        };
        Machine { folder, target }
    }

    fn with_tree() -> Machine {
        let folder = Folder::new();
        let tree = folder.path().join("quay");
        fs::create_dir_all(tree.join("conf/init")).unwrap();
        fs::write(tree.join("conf/init/zz_boot.sh"), "#!/bin/sh\n").unwrap();
        Machine { folder, target: Target::Tree(tree) }
    }

    fn all() -> [Machine; 3] {
        let [service, quadlet] = ["quay-app.service", "quay.container"].map(Machine::with_unit);
        [service, quadlet, Machine::with_tree()]
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn place(&self) -> Place {
        Place { home: self.path("opt"), user: false }
    }

    fn files(&self, program: &str) -> Vec<NewFile> {
        self.target.files(&self.place(), program.into()).unwrap()
    }

    fn install(&self, program: &str) -> Result<Vec<Step>, Error> {
        install(&self.target, &self.place(), &self.files(program))
    }

    fn uninstall(&self) -> Result<Vec<Step>, Error> {
        uninstall(&self.place())
    }

    /// Where the file lies that puts us to use.
    fn last(&self) -> PathBuf {
        self.files("x").pop().unwrap().path
    }

    fn snapshot(&self) -> Snapshot {
        snapshot(self.folder.path())
    }
}

#[track_caller]
fn assert_same(before: &Snapshot, after: &Snapshot, when: &str) {
    assert_eq!(differences(before, after), [] as [String; 0], "{when}");
}

fn all_of(steps: &[Step]) {
    carry_out(steps, |_, _| ControlFlow::Continue(())).unwrap();
}

/// As a kill leaves it: nothing is tidied up after the steps so far. A file that was about to be
/// written has been, under its other name.
fn first_of(steps: &[Step], wanted: usize) {
    let killed = carry_out(steps, |index, step| {
        if index < wanted {
            return ControlFlow::Continue(());
        }
        let (verb, path) = step.named();
        if verb == "write" || verb == "put back" {
            let name = path.file_name().unwrap().to_string_lossy();
            let half = format!(".{name}.quay-sidecar-new-{}", "0".repeat(32));
            let half = path.with_file_name(half);
            fs::write(half, "ha").unwrap();
        }
        ControlFlow::Break(())
    });
    assert!(matches!(killed, Err(Error::Stopped(index)) if index == wanted), "{killed:?}");
}

fn refusal(steps: Result<Vec<Step>, Error>) -> String {
    match steps {
        Err(Error::Refused(refusals)) => {
            refusals.iter().map(|refusal| format!("{refusal}\n")).collect()
        }
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn killed_anywhere_it_can_be_undone_or_run_again() {
    for machine in Machine::all() {
        let before = machine.snapshot();
        let steps = machine.install("v1").unwrap().len();
        assert!(steps > 5);
        for killed in 0..steps {
            first_of(&machine.install("v1").unwrap(), killed);
            all_of(&machine.uninstall().unwrap());
            assert_same(
                &before,
                &machine.snapshot(),
                &format!("killed after {killed} steps, then undone"),
            );

            first_of(&machine.install("v1").unwrap(), killed);
            all_of(&machine.install("v1").unwrap());
            assert_eq!(machine.install("v1").unwrap(), [], "{killed}");
            all_of(&machine.uninstall().unwrap());
            assert_same(
                &before,
                &machine.snapshot(),
                &format!("killed after {killed} steps, then done"),
            );
        }
        assert_eq!(machine.uninstall().unwrap(), []);
    }
}

#[test]
fn killed_anywhere_on_its_way_out_it_goes_all_the_same() {
    for machine in Machine::all() {
        // Somebody put one of our files there by hand before us.
        let last = machine.last();
        fs::create_dir_all(last.parent().unwrap()).unwrap();
        fs::write(&last, "by hand").unwrap();
        fs::set_permissions(&last, PermissionsExt::from_mode(0o640)).unwrap();
        let before = machine.snapshot();
        all_of(&machine.install("v1").unwrap());
        let installed = machine.snapshot();
        assert_ne!(installed, before);
        let steps = machine.uninstall().unwrap().len();
        for killed in 0..steps {
            first_of(&machine.uninstall().unwrap(), killed);
            all_of(&machine.uninstall().unwrap());
            assert_same(&before, &machine.snapshot(), &format!("killed after {killed} steps"));
            all_of(&machine.install("v1").unwrap());
            assert_same(&installed, &machine.snapshot(), "");
            // Or one thinks better of it.
            first_of(&machine.uninstall().unwrap(), killed);
            all_of(&machine.install("v1").unwrap());
            assert_eq!(machine.install("v1").unwrap(), []);
        }
        all_of(&machine.uninstall().unwrap());
        assert_same(&before, &machine.snapshot(), "");
    }
}

#[test]
fn a_newer_release_replaces_an_older_one() {
    for machine in Machine::all() {
        let before = machine.snapshot();
        all_of(&machine.install("v1").unwrap());
        let steps = machine.install("v2").unwrap().len();
        for killed in 0..steps {
            first_of(&machine.install("v2").unwrap(), killed);
            all_of(&machine.install("v2").unwrap());
            let program = machine.path("opt/bin/quay");
            assert_eq!(fs::read_to_string(&program).unwrap(), "v2");
            let manifest = Manifest::read(&machine.place().home).unwrap().unwrap();
            assert_eq!(manifest.state, State::Installed);
            assert!(manifest.files.iter().all(|entry| entry.condition().unwrap() == "intact"));
            all_of(&machine.install("v1").unwrap());
        }
        first_of(&machine.install("v2").unwrap(), steps / 2);
        all_of(&machine.uninstall().unwrap());
        assert_same(&before, &machine.snapshot(), "");
    }
}

#[test]
fn what_somebody_else_has_changed_is_left_alone() {
    for machine in Machine::all() {
        all_of(&machine.install("v1").unwrap());
        let last = machine.last();
        fs::write(&last, "theirs").unwrap();
        let changed = machine.snapshot();
        for said in [refusal(machine.install("v2")), refusal(machine.uninstall())] {
            assert!(said.contains("somebody else has changed it since"), "{said}");
            assert!(said.contains(last.to_str().unwrap()) && said.contains("remedy: "), "{said}");
        }
        assert_same(&changed, &machine.snapshot(), "");
        // What they removed is not missed on the way out, and comes back on the way in.
        fs::remove_file(&last).unwrap();
        all_of(&machine.install("v1").unwrap());
        assert_eq!(machine.install("v1").unwrap(), []);
        fs::remove_file(&last).unwrap();
        all_of(&machine.uninstall().unwrap());
        assert!(!machine.place().home.exists());
    }
}

#[test]
fn what_others_put_beside_ours_stays() {
    let machine = Machine::with_unit("quay-app.service");
    all_of(&machine.install("v1").unwrap());
    let theirs = machine.last().with_file_name("60-theirs.conf");
    fs::write(&theirs, "[Service]\n").unwrap();
    all_of(&machine.uninstall().unwrap());
    assert!(theirs.exists() && !machine.last().exists());
}

#[test]
fn no_link_is_followed_and_no_odd_name_written() {
    let machine = Machine::with_tree();
    symlink("/etc/passwd", machine.last()).unwrap();
    assert!(refusal(machine.install("v1")).contains("is a link"));
    for home in ["/opt/a b", "/opt/$x", "opt", "/opt/../etc", "/opt/a:b"] {
        let place = Place { home: home.into(), user: false };
        let said = refusal(machine.target.files(&place, Vec::new()).map(|_| Vec::new()));
        assert!(said.contains("A-Z a-z 0-9"), "{home}: {said}");
    }
}

#[test]
fn one_folder_is_for_one_installation() {
    let (machine, other) = (Machine::with_tree(), Machine::with_tree());
    all_of(&machine.install("v1").unwrap());
    let files = other.target.files(&machine.place(), b"v1".to_vec()).unwrap();
    let said = refusal(install(&other.target, &machine.place(), &files));
    assert!(said.contains("quay uninstall") && said.contains("--home"), "{said}");
}

#[test]
fn every_step_shows_what_it_changes() {
    let machine = Machine::with_unit("quay-app.service");
    let steps = machine.install("v1\0binary").unwrap();
    let shown: String = steps
        .iter()
        .map(|step| format!("{step}\n{}", step.diff().unwrap().unwrap_or_default()))
        .collect();
    let home = machine.path("opt").display().to_string();
    for part in [
        &format!("make folder {home}"),
        &format!("note down in {home}/manifest.json"),
        "no text: nothing -> 9 bytes, sha256 ",
        &format!("+CONTAINERS_CONF_OVERRIDE={home}/containers.conf"),
        &format!("+  \"{home}/bin:/opt/quay-sidecar/bin:ro,z\","),
        "/conf/init/zzz_quay_sidecar.sh:ro,z\",",
        &format!("+EnvironmentFile=-{home}/podman.env"),
    ] {
        assert!(shown.contains(part), "{part} is not in\n{shown}");
    }
    // The one that puts the others to use comes last.
    let mut writes = steps.iter().filter(|step| step.named().0 == "write");
    assert_eq!(writes.next_back().unwrap().named().1, machine.last());

    let quadlet = Machine::with_unit("quay.container");
    let steps = quadlet.install("v1").unwrap();
    let diffs: String = steps.iter().filter_map(|step| step.diff().unwrap()).collect();
    let home = quadlet.path("opt").display().to_string();
    assert!(diffs.contains(&format!("+[Container]\n+Volume={home}/bin:/opt")), "{diffs}");
}

/// Quay's own files have our edits while it runs: they go with us.
#[test]
fn a_tree_that_has_started_with_us_is_as_quay_generated_it() {
    let quay = Quay::new(Variant { same_user: true, ..Variant::default() });
    let place = Place { home: quay.root().join("opt"), user: false };
    let target = Target::Tree(quay.root().to_owned());
    let program = fs::read(super::standin::program()).unwrap();
    let before = tree(quay.root());
    let files = target.files(&place, program).unwrap();
    all_of(&install(&target, &place, &files).unwrap());
    let hook = fs::read_to_string(quay.conf("init/zzz_quay_sidecar.sh")).unwrap();
    assert!(hook.contains(&format!(":-{}}}", place.home.display())), "{hook}");
    quay.boot();
    fs::remove_dir_all(&quay.bundle.programs.run).unwrap();
    assert!(quay.edited()[0].contains("quay-sidecar"));
    let steps = uninstall(&place).unwrap();
    assert!(steps.iter().any(|step| step.to_string().contains("bundle revert")), "{steps:?}");
    all_of(&steps);
    assert_same(&before, &tree(quay.root()), "");
}

/// Without what nginx makes when it tests its files.
fn tree(root: &Path) -> Snapshot {
    let mut found = snapshot(root);
    found.retain(|path, _| {
        let name = path.strip_prefix(root).unwrap();
        let made = ["nginx.pid", "error.log", "access.log"].iter().any(|file| name.ends_with(file));
        !made && !name.starts_with("temp")
    });
    found
}
