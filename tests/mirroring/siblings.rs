//! Blobs that another mirror has from the same source are linked, where nobody learns anything by
//! it.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{Mirrored, wire::Wire};
use crate::support::images::{Blob, Manifest, OCI_LAYER};

impl Mirrored {
    /// Another mirror like the first, in this namespace: of this robot, from this source.
    pub fn another(&self, namespace: &str, name: &str, robot: &str, reference: &str) {
        let id = self.sql(&format!(
            "INSERT INTO repository (namespace_user_id, name, visibility_id, badge_token, kind_id, \
                 trust_enabled, state) \
             SELECT n.id, '{name}', r.visibility_id, 'badge', r.kind_id, false, 2 \
             FROM \"user\" n, repository r \
             WHERE n.username = '{namespace}' AND r.id = {} RETURNING id",
            self.repository_id
        ));
        let id = id.trim();
        self.sql(&format!(
            "INSERT INTO repositorypermission (user_id, repository_id, role_id) \
             SELECT u.id, {id}, r.id FROM role r, \"user\" u \
             WHERE r.name = 'write' AND u.username = '{robot}'"
        ));
        self.sql(&format!(
            "INSERT INTO repomirrorconfig (repository_id, creation_date, is_enabled, mirror_type, \
                 internal_robot_id, external_registry_config, sync_interval, sync_start_date, \
                 sync_retries_remaining, sync_status, sync_transaction_id, root_rule_id, \
                 external_reference, skopeo_timeout) \
             SELECT {id}, c.creation_date, true, 1, u.id, external_registry_config, sync_interval, \
                 sync_start_date, 3, 0, '{name}', root_rule_id, '{reference}', skopeo_timeout \
             FROM repomirrorconfig c, \"user\" u \
             WHERE c.repository_id = {} AND u.username = '{robot}'",
            self.repository_id
        ));
    }
}

#[test]
fn blobs_of_a_sibling_are_linked() {
    let mut mirrored = Mirrored::new(&["latest"]);
    let image = Manifest::oci("amd64", vec![Blob::layer(OCI_LAYER, &[("hello", "sibling")])]);
    let (wire, number) = (Wire::before(&mirrored), image.blobs.len());
    mirrored.source.push("latest", &image);
    let digests: HashSet<String> = image.blobs.iter().map(|blob| blob.digest.clone()).collect();
    let sync = |mirrored: &Mirrored, name: &str| -> (Value, HashSet<String>) {
        let from = wire.len();
        let report = mirrored.sync_of(name);
        assert_eq!((&report["copied"], &report["failed"]), (&json!(1), &json!({})), "{report}");
        let asked = wire.blobs(from);
        assert!(asked.len() == number || asked.is_empty(), "{asked:?}");
        (report, asked.into_iter().collect())
    };
    assert_eq!(sync(&mirrored, "demo/mirror").1, digests);
    let (robot, reference) = (mirrored.robot.username.clone(), wire.reference("team/app"));
    mirrored.another("demo", "sibling", &robot, &reference);
    let (report, asked) = sync(&mirrored, "demo/sibling");
    assert!(asked.is_empty(), "{asked:?}");
    let bytes: usize = image.blobs.iter().map(|blob| blob.bytes.len()).sum();
    assert_eq!(report["linked_bytes"], bytes, "{report}");
    // It is its own: the sibling may go.
    let linked = "SELECT count(*) FROM manifestblob b JOIN repository r ON r.id = b.repository_id \
                  WHERE r.name = 'sibling'";
    assert_eq!(mirrored.sql(linked).trim(), number.to_string());

    // Whatever somebody else might have kept to himself is fetched.
    let robot_of = |name: &str| {
        mirrored.sql(&format!(
            "INSERT INTO \"user\" (uuid, username, email, verified, organization, robot, enabled, \
                 invoice_email, invalid_login_attempts, last_invalid_login, \
                 removed_tag_expiration_s, creation_date) \
             SELECT '{name}', '{name}', '{name}', verified, organization, robot, enabled, \
                 invoice_email, invalid_login_attempts, last_invalid_login, \
                 removed_tag_expiration_s, creation_date FROM \"user\" WHERE username = '{robot}'"
        ))
    };
    robot_of("demo+other");
    mirrored.another("demo", "other-robot", "demo+other", &reference);
    assert_eq!(sync(&mirrored, "demo/other-robot").1, digests);
    mirrored.another("bob", "other-namespace", &robot, &reference);
    assert_eq!(sync(&mirrored, "bob/other-namespace").1, digests);
    // The same machine under another name is another host; one of which it begins with, too.
    let port = wire.port;
    let allowed = json!(["127.0.0.0/8", "localhost"]);
    mirrored.world.configure("SSRF_ALLOWED_HOSTS", allowed);
    mirrored.another("demo", "other-host", &robot, &format!("localhost:{port}/team/app"));
    assert_eq!(sync(&mirrored, "demo/other-host").1, digests);
    // Where users may push by now, what they have is theirs.
    mirrored.sql(
        "UPDATE repository SET state = 0 WHERE name IN ('mirror', 'sibling', 'other-robot', \
         'other-host')",
    );
    mirrored.another("demo", "alone", &robot, &reference);
    assert_eq!(sync(&mirrored, "demo/alone").1, digests);
}
