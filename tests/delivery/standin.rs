//! An image that stands in for Quay's: the real nginx and supervisord of this machine, Quay's layout,
//! users and start, and a stand-in for Python. Made from this machine's own files, never pulled.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use crate::support::Folder;
use crate::support::process::AtExit;

/// What differs from one release of Quay to another, as far as we are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// Like those that we know.
    Known,
    /// Other spaces, locations and programs, and a log format of another name.
    Other,
    /// One more location that asks the registry: our anchors do not hold.
    Unknown,
}

/// The program, without what only a debugger reads.
pub fn program() -> &'static Path {
    static PROGRAM: LazyLock<(Folder, PathBuf)> = LazyLock::new(|| {
        let folder = Folder::new();
        let path = folder.path().join("quay");
        let mut strip = Command::new("strip");
        strip.arg("-o").arg(&path).arg(env!("CARGO_BIN_EXE_quay"));
        run(&mut strip);
        (folder, path)
    });
    &PROGRAM.1
}

/// The image of a release; made once a process.
pub fn image(release: Release) -> &'static str {
    static KNOWN: LazyLock<Image> = LazyLock::new(|| Image::of(Release::Known));
    static OTHER: LazyLock<Image> = LazyLock::new(|| Image::of(Release::Other));
    static UNKNOWN: LazyLock<Image> = LazyLock::new(|| Image::of(Release::Unknown));
    match release {
        Release::Known => &KNOWN.name,
        Release::Other => &OTHER.name,
        Release::Unknown => &UNKNOWN.name,
    }
}

/// The derived image of `docker/Containerfile`, from the known release.
pub fn derived() -> &'static str {
    static DERIVED: LazyLock<Image> = LazyLock::new(|| {
        let context = Folder::new();
        let source = Path::new(env!("CARGO_MANIFEST_DIR"));
        fs::create_dir(context.path().join("init")).unwrap();
        fs::copy(program(), context.path().join("quay")).unwrap();
        let hook = "init/zzz_quay_sidecar.sh";
        fs::copy(source.join(hook), context.path().join(hook)).unwrap();
        let base = format!("QUAY={}", image(Release::Known));
        let file = source.join("docker/Containerfile");
        Image::build("derived", &file, context.path(), &["--build-arg", &base])
    });
    &DERIVED.name
}

pub struct Image {
    name: String,
    _at_exit: AtExit,
}

impl Image {
    /// One that this process makes, or has made: it goes with the process.
    pub fn named(name: &str) -> Image {
        let name = format!("localhost/quay-sidecar-test-{}-{name}", std::process::id());
        let _at_exit = AtExit::run(format!("podman rmi -f {name} >/dev/null 2>&1"));
        Image { name, _at_exit }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    fn of(release: Release) -> Image {
        static BASE: LazyLock<Image> = LazyLock::new(Image::base);
        let context = Folder::new();
        quay(context.path(), release);
        let name = format!("{release:?}").to_lowercase();
        let base = format!("BASE={}", BASE.name);
        let file = source().join("Containerfile");
        Image::build(&name, &file, context.path(), &["--build-arg", &base])
    }

    fn base() -> Image {
        let context = Folder::new();
        run(Command::new(source().join("stage")).arg(context.path().join("root")).arg(program()));
        Image::build("base", &source().join("Containerfile.base"), context.path(), &[])
    }

    fn build(name: &str, file: &Path, context: &Path, more: &[&str]) -> Image {
        let image = Image::named(name);
        let mut build = Command::new("podman");
        build.args(["build", "--quiet", "--pull=never", "-t", &image.name]).args(more);
        run(build.arg("-f").arg(file).arg(context));
        image
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = Command::new("podman").args(["rmi", "-f", &self.name]).output();
    }
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/delivery/standin")
}

/// Quay's own tree in the image.
fn quay(root: &Path, release: Release) {
    let quay = root.join("quay-registry");
    let conf = quay.join("conf");
    for folder in ["init", "stack", "nginx", "templates/nginx"] {
        fs::create_dir_all(conf.join(folder)).unwrap();
    }
    fs::create_dir_all(quay.join("static/ui")).unwrap();
    let version = match release {
        Release::Known => "v3.17.4",
        Release::Other => "v3.18.0",
        Release::Unknown => "v3.19.0",
    };
    fs::write(quay.join("CHANGELOG.md"), format!("### {version}\n")).unwrap();
    fs::write(quay.join("static/502.html"), "the page for a 502").unwrap();
    fs::write(quay.join("static/ui/index.html"), "the user interface").unwrap();
    for (name, to) in [
        ("quay-entrypoint.sh", "quay-entrypoint.sh"),
        ("generate.sh", "conf/init/supervisord_conf_create.sh"),
        ("zzzz_ports.sh", "conf/init/zzzz_ports.sh"),
        ("python_registry.py", "python_registry.py"),
        ("nginx.conf", "conf/templates/nginx/nginx.conf"),
    ] {
        let to = quay.join(to);
        fs::copy(source().join(name), &to).unwrap();
        fs::set_permissions(&to, PermissionsExt::from_mode(0o755)).unwrap();
    }
    if release == Release::Other {
        let main = conf.join("templates/nginx/nginx.conf");
        let text = fs::read_to_string(&main).unwrap().replace("lb_logs", "quay_logs");
        fs::write(&main, text).unwrap();
    }
    let server = include_str!("../bundle/quay/server-base.conf");
    let http = include_str!("../bundle/quay/http-base.conf");
    let supervisord = include_str!("../bundle/quay/supervisord.conf");
    let (server, http, supervisord) = edited(release, server, http, supervisord);
    for (name, text) in [
        ("nginx/server-base.conf", server.as_str()),
        ("nginx/http-base.conf", &http),
        ("nginx/rate-limiting.conf", include_str!("../bundle/quay/rate-limiting.conf")),
        ("nginx/root-base.conf", include_str!("../bundle/quay/root-base.conf")),
        ("supervisord.conf", &supervisord),
    ] {
        let text = text
            .replace("@ROOT@/static", "/quay-registry/static")
            .replace("@ROOT@", "/tmp")
            .replace("@USER@", "")
            .replace("@LIMIT@", "")
            .replace("@KEEPALIVE@", "0")
            .replace(
                "@SLEEP@ 1001",
                "python3 /quay-registry/python_registry.py /tmp/gunicorn_registry.sock",
            )
            .replace("@SLEEP@ 1002", "nginx -c /quay-registry/conf/nginx/nginx.conf")
            .replace("@SLEEP@", "/bin/sleep")
            .replace("@NGINX@", "true");
        fs::write(conf.join("templates").join(name), text.trim_end()).unwrap();
    }
    // What a user of any number may do in group 0.
    run(Command::new("chmod").args(["-R", "g=u"]).arg(&quay));
}

fn edited(
    release: Release,
    server: &str,
    http: &str,
    supervisord: &str,
) -> (String, String, String) {
    let more = |text: &str, more: &str| format!("{}\n{more}", text.trim_end());
    let worker = "[program:secondworker]\ncommand=@SLEEP@ 1005\nautostart = true\n";
    match release {
        Release::Known => (server.to_owned(), http.to_owned(), supervisord.to_owned()),
        Release::Other => (
            more(
                &server.replace("proxy_pass   ", "proxy_pass "),
                "location /v3/ { return 404; }\n",
            ),
            http.replace("lb_logs", "quay_logs"),
            more(&supervisord.replace("repomirrorworker", "mirrorworker"), worker),
        ),
        Release::Unknown => (
            more(server, "location /v3/ { proxy_pass http://registry_app_server; }\n"),
            http.to_owned(),
            supervisord.to_owned(),
        ),
    }
}

pub fn run(command: &mut Command) -> String {
    let ran = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{command:?}: {}\n{out}\n{err}", ran.status);
    out.into_owned()
}
