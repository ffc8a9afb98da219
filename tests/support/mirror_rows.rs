//! A repository that follows another registry, as Quay's API would have left it in the database.

use serde_json::json;

/// Quay's names for what the log and the notifications know of mirrors.
pub const KINDS: [&str; 5] = [
    "repo_mirror_sync_started",
    "repo_mirror_sync_success",
    "repo_mirror_sync_failed",
    "repo_mirror_sync_tag_success",
    "repo_mirror_sync_tag_failed",
];

/// Of a registry that was just seeded, which knows nothing of mirrors.
pub fn add_kinds(sql: impl Fn(&str) -> String) {
    for kind in KINDS {
        sql(&format!("INSERT INTO logentrykind (name) VALUES ('{kind}')"));
    }
}

/// Makes the public repository `demo/{name}`, which follows `reference` in the name of a robot that
/// may write to it: enabled, due, of every tag that `globs` mean. Returns its id.
pub fn add(
    sql: impl Fn(&str) -> String,
    name: &str,
    reference: &str,
    globs: &[&str],
    robot_id: i32,
) -> i32 {
    let repository_id: i32 = sql(&format!(
        "INSERT INTO repository (namespace_user_id, name, visibility_id, badge_token, \
             kind_id, trust_enabled, state) \
         SELECT n.id, '{name}', v.id, 'badge', k.id, false, 2 FROM \"user\" n, \
             visibility v, repositorykind k \
         WHERE n.username = 'demo' AND v.name = 'public' AND k.name = 'image' \
         RETURNING id"
    ))
    .trim()
    .parse()
    .expect("an id");
    sql(&format!(
        "INSERT INTO repositorypermission (user_id, repository_id, role_id) \
         SELECT {robot_id}, {repository_id}, id FROM role WHERE name = 'write'"
    ));
    let globs = json!(globs);
    sql(&format!(
        "INSERT INTO repomirrorrule (uuid, repository_id, creation_date, rule_type, rule_value) \
         VALUES ('rule', {repository_id}, '2026-01-01', 1, '{globs}')"
    ));
    sql(&format!(
        "INSERT INTO repomirrorconfig (repository_id, creation_date, is_enabled, mirror_type, \
             internal_robot_id, external_registry_config, sync_interval, sync_start_date, \
             sync_retries_remaining, sync_status, sync_transaction_id, root_rule_id, \
             external_reference, skopeo_timeout) \
         SELECT {repository_id}, '2026-01-01', true, 1, {robot_id}, \
             '{{\"verify_tls\": false, \"unsigned_images\": true}}', 86400, \
             '2026-01-01 00:00:00', 3, 0, 'old', id, '{reference}', 300 FROM repomirrorrule \
         WHERE repository_id = {repository_id}"
    ));
    repository_id
}
