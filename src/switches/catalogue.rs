//! What can be owned: the families, routes and programs of Quay, as data in `conf/` (the switch
//! model, sections 2 to 5).

use std::sync::LazyLock;

use sha2::{Digest as _, Sha256};

use super::csv::{self, Row};

/// A group of routes with a switch of its own.
#[derive(Debug)]
pub struct Family {
    /// For instance `registry-v2`.
    pub name: String,
    /// The end of its key: `REGISTRY_V2` of `ROUTE_OWNER_FAMILY_REGISTRY_V2`.
    pub switch: String,
    /// The paths it is mostly found under; its routes are what counts.
    pub prefixes: String,
    /// How many routes it has.
    pub rows: usize,
    /// How many of them change something.
    pub writes: usize,
    /// The upstream of nginx that serves it in Python.
    pub upstream: String,
    /// When it is planned to move.
    pub phase: String,
}

/// A method or methods on a path.
#[derive(Debug)]
pub struct Route {
    /// 320 for `ROUTE-0320`.
    pub id: u16,
    /// The name of its family.
    pub family: String,
    /// The switch it moves with.
    pub capability: String,
    /// The part of the capability it belongs to, which is the capability itself for most.
    ///
    /// A label, except for `V2_DELETE`, which may be switched on its own.
    pub sub_capability: String,
    /// In upper case.
    pub methods: Vec<String>,
    /// With `<placeholders>`, as Quay's framework writes them.
    pub path: String,
    /// What Quay's nginx does with it; `web`, `registry` and `secscan` are Python's upstreams.
    pub nginx_target: String,
    /// The Quay features it depends on.
    pub feature_gates: String,
}

/// A program of Quay's supervisor.
#[derive(Debug)]
pub struct Worker {
    /// The supervisor's name for it.
    pub program: String,
    /// Its key, for those that can be switched.
    pub switch: Option<String>,
    /// `planned`, `shared-infrastructure`, `route-owned` or `retired-approved`.
    pub disposition: String,
    /// Whether stock Quay starts it.
    pub autostart: bool,
    /// When it is planned to move.
    pub phase: String,
    /// What Quay makes it depend on.
    pub gate: String,
}

/// All of it.
#[derive(Debug)]
pub struct Catalogue {
    /// In the order in which they are planned to move.
    pub families: Vec<Family>,
    /// By id.
    pub routes: Vec<Route>,
    /// By process id of the tracker.
    pub workers: Vec<Worker>,
    /// `sha256:` and the hash of the route table: what `route_table` of a snapshot has to say.
    pub route_table: String,
}

const ROUTES: &str = include_str!("../../conf/routes.csv");

/// The catalogue this binary was built with.
pub fn catalogue() -> &'static Catalogue {
    static CATALOGUE: LazyLock<Catalogue> = LazyLock::new(|| Catalogue {
        families: csv::rows(include_str!("../../conf/families.csv")).map(family).collect(),
        routes: csv::rows(ROUTES).map(route).collect(),
        workers: csv::rows(include_str!("../../conf/workers.csv")).map(worker).collect(),
        route_table: format!("sha256:{}", hex(&Sha256::digest(ROUTES))),
    });
    &CATALOGUE
}

/// Capabilities whose owner no switch changes (section 3): health probes, the ping that nginx
/// answers itself, and the subrequest that guards storage.
const PINNED: [&str; 3] = ["WEB_HEALTH", "V1_PING", "OTHER_STORAGE_PROXY_AUTH"];

/// The only part of a capability with a switch of its own (decision 4).
const V2_DELETE: &str = "V2_DELETE";

impl Catalogue {
    /// The route with this id.
    pub fn route(&self, id: u16) -> Option<&Route> {
        self.routes.iter().find(|route| route.id == id)
    }

    /// The family called so.
    pub fn family(&self, name: &str) -> Option<&Family> {
        self.families.iter().find(|family| family.name == name)
    }

    /// The program called so.
    pub fn worker(&self, program: &str) -> Option<&Worker> {
        self.workers.iter().find(|worker| worker.program == program)
    }

    /// Every capability that has a switch, each once, in the order of the routes.
    pub fn capabilities(&self) -> Vec<&str> {
        let mut names = Vec::new();
        for route in &self.routes {
            let sub = route.sub_capability == V2_DELETE;
            for name in [Some(&route.capability), sub.then_some(&route.sub_capability)] {
                match name {
                    Some(name) if !names.contains(&name.as_str()) => names.push(name.as_str()),
                    _ => {}
                }
            }
        }
        names
    }

    /// The programs that can be switched.
    pub fn switchable(&self) -> impl Iterator<Item = &Worker> {
        self.workers.iter().filter(|worker| worker.switch.is_some())
    }
}

impl Route {
    /// As the tracker writes it.
    pub fn tracker_id(&self) -> String {
        format!("ROUTE-{:04}", self.id)
    }

    /// Whether no switch moves it.
    pub fn is_pinned(&self) -> bool {
        is_pinned(&self.capability)
    }

    /// Whether nginx sends it to any upstream at all in the default mode of the UI.
    pub fn is_reachable(&self) -> bool {
        ["web", "registry", "secscan"].contains(&self.nginx_target.as_str())
    }

    /// The capabilities whose switch it obeys, the closest first.
    pub(super) fn switches(&self) -> impl Iterator<Item = &str> {
        let own = (self.sub_capability == V2_DELETE).then_some(V2_DELETE);
        own.into_iter().chain([self.capability.as_str()])
    }
}

/// Whether no switch moves `capability`.
pub(super) fn is_pinned(capability: &str) -> bool {
    PINNED.contains(&capability)
}

fn text(row: &Row<'_>, column: &str) -> String {
    row.get(column).cloned().unwrap_or_default()
}

fn number(row: &Row<'_>, column: &str) -> usize {
    text(row, column).parse().unwrap_or_default()
}

fn family(row: Row<'_>) -> Family {
    Family {
        name: text(&row, "family"),
        switch: text(&row, "switch"),
        prefixes: text(&row, "prefixes"),
        rows: number(&row, "rows"),
        writes: number(&row, "writes"),
        upstream: text(&row, "upstream"),
        phase: text(&row, "phase"),
    }
}

fn route(row: Row<'_>) -> Route {
    let id = text(&row, "route_id");
    Route {
        id: id.trim_start_matches("ROUTE-").parse().unwrap_or_default(),
        family: text(&row, "family"),
        capability: text(&row, "capability"),
        sub_capability: text(&row, "sub_capability"),
        methods: text(&row, "methods").split('|').map(str::to_owned).collect(),
        path: text(&row, "path_pattern"),
        nginx_target: text(&row, "nginx_target"),
        feature_gates: text(&row, "feature_gates"),
    }
}

fn worker(row: Row<'_>) -> Worker {
    let switch = text(&row, "switch");
    Worker {
        program: text(&row, "program"),
        switch: (!switch.is_empty()).then_some(switch),
        disposition: text(&row, "disposition"),
        autostart: text(&row, "default_autostart") == "true",
        phase: text(&row, "phase"),
        gate: text(&row, "gate"),
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn counts_are_those_of_the_switch_model() {
        let all = catalogue();
        assert_eq!((all.families.len(), all.routes.len(), all.workers.len()), (12, 413, 36));
        let writes = |route: &&Route| {
            route.methods.iter().any(|m| ["POST", "PUT", "PATCH", "DELETE"].contains(&m.as_str()))
        };
        for family in &all.families {
            let of = || all.routes.iter().filter(|route| route.family == family.name);
            assert_eq!((of().count(), of().filter(writes).count()), (family.rows, family.writes));
        }
        assert_eq!(all.routes.iter().filter(writes).count(), 191);
        assert_eq!(all.routes.iter().filter(|route| !route.is_reachable()).count(), 43);
        let ids: BTreeSet<u16> = all.routes.iter().map(|route| route.id).collect();
        assert_eq!(ids, (1..=413).collect());
    }

    #[test]
    fn capabilities_have_the_rows_of_the_switch_model() {
        let mut rows: BTreeMap<&str, usize> = BTreeMap::new();
        for route in &catalogue().routes {
            *rows.entry(&route.capability).or_default() += 1;
        }
        let expected = [
            ("API_V1_READ", 115),
            ("API_V1_WRITE", 153),
            ("KEYS_READ", 2),
            ("KEYS_WRITE", 2),
            ("OAUTH1_CALLBACK", 1),
            ("OAUTH2_CALLBACK", 9),
            ("OAUTH2_FEDERATION", 1),
            ("OTHER_MANIFEST_API_READ", 5),
            ("OTHER_MANIFEST_API_WRITE", 2),
            ("OTHER_STORAGE_PROXY_AUTH", 1),
            ("OTHER_USERFILES", 2),
            ("REALTIME_READ", 2),
            ("SECSCAN_NOTIFY", 1),
            ("SECSCAN_STATUS", 2),
            ("V1_PING", 2),
            ("V1_PULL", 7),
            ("V1_PUSH", 9),
            ("V1_SEARCH", 1),
            ("V1_USERS", 5),
            ("V1_WEB_ROOT", 2),
            ("V2_AUTH", 1),
            ("V2_BASE", 1),
            ("V2_PULL", 7),
            ("V2_PUSH", 10),
            ("WEBHOOKS_WRITE", 3),
            ("WEB_BOOT", 4),
            ("WEB_HEALTH", 8),
            ("WEB_OAUTH", 6),
            ("WEB_UI", 47),
            ("WELLKNOWN_READ", 2),
        ];
        assert_eq!(rows, BTreeMap::from(expected));
        assert_eq!(catalogue().capabilities().len(), expected.len() + 1);
    }

    #[test]
    fn programs_are_those_of_the_switch_model() {
        let all = catalogue();
        let of = |kind| all.workers.iter().filter(move |worker| worker.disposition == kind).count();
        assert_eq!((of("planned"), of("shared-infrastructure")), (28, 4));
        assert_eq!((of("route-owned"), of("retired-approved")), (3, 1));
        assert_eq!(all.switchable().count(), 28);
        for worker in all.switchable() {
            let expected = format!("WORKER_OWNER_{}", worker.program.to_uppercase());
            assert_eq!(worker.switch.as_ref(), Some(&expected));
            assert_eq!(worker.autostart, worker.program != "repomirrorworker");
        }
    }

    #[test]
    fn the_route_table_has_a_stable_name() {
        // Whoever changes the table invalidates every snapshot with switches of single routes.
        let expected = "sha256:b6fdb039259f17eb9a23f394105717d7aec0a40b22f34f5675e3b120ce067234";
        assert_eq!(catalogue().route_table, expected);
    }
}
