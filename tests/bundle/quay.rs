//! A stand-in for the tree of a Quay that has just generated its files.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use quay_sidecar::bundle::{
    Applied, Bundle, Canary, Programs, Routing, Rule, RuleOwner, RunFolder, Tree, When,
};

use crate::support::{Folder, free_port};

/// How a Quay differs from another, as far as its nginx files show.
#[derive(Clone, Copy, Default)]
pub struct Variant {
    pub tls: bool,
    pub v1_domain: bool,
    pub rate_limits: bool,
    /// nginx's workers are of our own user, as in Quay's image.
    pub same_user: bool,
    /// QUAY_SERVICES without nginx.
    pub no_nginx: bool,
}

pub struct Quay {
    pub folder: Folder,
    pub port: u16,
    pub bundle: Bundle,
}

impl Quay {
    pub fn new(variant: Variant) -> Quay {
        let folder = Folder::new();
        let root = folder.path().to_owned();
        let port = free_port();
        for folder in ["conf/nginx", "conf/stack", "conf/init", "static/ui", "temp", "storage"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        fs::write(root.join("static/502.html"), "the page for a 502").unwrap();
        fs::write(root.join("static/ui/index.html"), "the user interface").unwrap();
        fs::write(root.join("CHANGELOG.md"), "### v3.18.0\n\nText").unwrap();
        let conf = root.join("conf");
        let map = "return {\n    \"nginx\": {\"autostart\": \"true\"},\n    \
                   \"ip-resolver-update-worker\": {\"autostart\": \"true\"},\n}\n";
        fs::write(conf.join("init/supervisord_conf_create.py"), map).unwrap();
        if variant.tls {
            certificate(&conf.join("stack"));
        }
        let tree = Tree::new(&root, &conf);
        let programs = Programs {
            binary: root.join("bin/quay"),
            config: conf.join("stack"),
            quay_conf: conf,
            run: root.join("run"),
            registryd: false,
            owner_switch: true,
            service: None,
            python: None,
            stop_wait: 9,
            overrides: None,
        };
        let bundle = Bundle {
            tree,
            routing: routing(),
            blob_roots: vec![(0, root.join("storage"))],
            database: None,
            programs,
            nginx: PathBuf::from("nginx"),
            nginx_limit: Duration::from_secs(20),
        };
        let quay = Quay { folder, port, bundle };
        quay.generate(variant);
        quay
    }

    /// What Quay does at each start. Its files end without a line end, as the real ones do.
    pub fn generate(&self, variant: Variant) {
        let limit = if variant.rate_limits {
            "limit_req zone=namespaced_light burst=50 nodelay;"
        } else {
            ""
        };
        let sleep = "/bin/sleep";
        for (name, text) in [
            ("nginx/server-base.conf", include_str!("quay/server-base.conf")),
            ("nginx/http-base.conf", include_str!("quay/http-base.conf")),
            ("nginx/rate-limiting.conf", include_str!("quay/rate-limiting.conf")),
            ("nginx/root-base.conf", include_str!("quay/root-base.conf")),
            ("supervisord.conf", include_str!("quay/supervisord.conf")),
        ] {
            let root = rustix::process::geteuid().is_root();
            let user = if variant.same_user && root { "user root;" } else { "" };
            let text = text
                .replace("@ROOT@", self.root().to_str().unwrap())
                .replace("@USER@", user)
                .replace("@LIMIT@", limit)
                .replace("@KEEPALIVE@", "0")
                .replace("@SLEEP@", sleep)
                .replace("@NGINX@", if variant.no_nginx { "false" } else { "true" });
            fs::write(self.conf(name), text.trim_end()).unwrap();
        }
        fs::write(self.conf("nginx/nginx.conf"), self.main(variant)).unwrap();
    }

    fn main(&self, variant: Variant) -> String {
        let common = "map $http_host $safe_host { default $http_host; \"\" $host; }\n\
                      map $http_x_forwarded_proto $final_proto { default http; ~.+ $http_x_forwarded_proto; }\n";
        let port = self.port;
        let mut servers = String::new();
        if variant.tls {
            let mut server = |name: &str, listen: &str| {
                servers.push_str(&format!(
                    "server {{\n server_name {name};\n ssl_certificate ../stack/ssl.cert;\n \
                     ssl_certificate_key ../stack/ssl.key;\n include server-base.conf;\n \
                     listen 127.0.0.1:{listen};\n \
                     add_header Strict-Transport-Security \"max-age=63072000; preload\";\n \
                     real_ip_header X-Forwarded-For;\n access_log {}/access.log lb_logs;\n}}\n",
                    self.root().display()
                ));
            };
            let second = free_port();
            server("_", &format!("{port} ssl http2 default"));
            server("_", &format!("{second} ssl http2 default proxy_protocol"));
            if variant.v1_domain {
                server("v1.example", &format!("{port} ssl"));
                server("v1.example", &format!("{second} ssl proxy_protocol"));
            }
        } else {
            servers = format!(
                "server {{\n include server-base.conf;\n listen 127.0.0.1:{port} default;\n \
                 real_ip_header X-Forwarded-For;\n access_log {}/access.log lb_logs;\n}}\n",
                self.root().display()
            );
        }
        format!(
            "pcre_jit on;\ninclude root-base.conf;\nhttp {{\ninclude http-base.conf;\n\
             include rate-limiting.conf;\n{common}{servers}}}"
        )
    }

    pub fn root(&self) -> &Path {
        self.folder.path()
    }

    pub fn conf(&self, name: &str) -> PathBuf {
        self.root().join("conf").join(name)
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.conf(name)).unwrap()
    }

    pub fn edited(&self) -> [String; 3] {
        ["nginx/http-base.conf", "nginx/server-base.conf", "supervisord.conf"]
            .map(|name| self.read(name))
    }

    /// Applied as the boot hook does; panics with the report if that fails.
    pub fn boot(&self) -> Applied {
        let applied = self.bundle.apply(When::Boot);
        assert!(applied.is_done(), "{applied}");
        applied
    }

    pub fn run(&self) -> RunFolder {
        RunFolder::open(&self.bundle.programs.run).unwrap()
    }

    pub fn flag(&self, name: &str, on: bool) {
        self.run().set(name, on).unwrap();
    }

    /// Where our stand-in for registryd listens.
    pub fn rust_socket(&self) -> PathBuf {
        self.bundle.programs.run.join("registryd.sock")
    }

    pub fn python_socket(&self) -> PathBuf {
        self.root().join("gunicorn_registry.sock")
    }

    /// A blob in the storage; returns its path there.
    pub fn store(&self, hex: &str, content: &[u8]) -> String {
        let path = format!("sha256/{}/{hex}", &hex[..2]);
        let file = self.root().join("storage").join(&path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, content).unwrap();
        path
    }

    /// A blob whose file is a link to somewhere else.
    pub fn store_link(&self, hex: &str, target: &Path) -> String {
        let path = self.store(hex, b"");
        let file = self.root().join("storage").join(&path);
        fs::remove_file(&file).unwrap();
        symlink(target, file).unwrap();
        path
    }
}

/// The capabilities of the family registry-v2, in the order of the contract (§6.5).
pub fn routing() -> Routing {
    const N: &str = "[^/]+(?:/[^/]+)*";
    const D: &str = "[A-Za-z0-9_+.-]+:[A-Fa-f0-9]+";
    const T: &str = "[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}";
    let rule = |flag: &str, methods: &str, path: String| Rule {
        methods: methods.split(' ').map(str::to_owned).collect(),
        path,
        owner: RuleOwner::Flag { flag: flag.to_owned(), gated: false },
    };
    let read = "GET HEAD";
    Routing {
        rules: vec![
            rule(
                "v2_push",
                "GET HEAD POST PUT PATCH DELETE",
                format!("^/v2/{N}/blobs/uploads/[^/]*$"),
            ),
            rule("v2_push", "PUT DELETE", format!("^/v2/{N}/manifests/(?:{D}|{T})$")),
            rule("v2_push", "DELETE", format!("^/v2/{N}/blobs/[^/]+$")),
            rule("v2_pull", read, format!("^/v2/{N}/manifests/(?:{D}|{T})$")),
            rule("v2_pull", read, format!("^/v2/{N}/blobs/{D}$")),
            rule("v2_pull", read, format!("^/v2/{N}/referrers/{D}$")),
            rule("v2_pull", read, format!("^/v2/{N}/tags/list$")),
            rule("v2_pull", read, "^/v2/_catalog$".to_owned()),
            rule("v2_auth", read, "^/v2/auth$".to_owned()),
            rule("v2_base", read, "^/v2/$".to_owned()),
        ],
        canary: Canary::default(),
    }
}

fn certificate(folder: &Path) {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "90", "-subj", "/CN=q"])
        .arg("-keyout")
        .arg(folder.join("ssl.key"))
        .arg("-out")
        .arg(folder.join("ssl.cert"))
        .output()
        .expect("openssl runs: install the package openssl");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}
