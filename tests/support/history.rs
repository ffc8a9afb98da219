//! What has to hold for the tags of a registry, whoever has changed them, and in whatever order.

/// Tags that have two lives at once, and names with more than one that is alive: none, each by its
/// repository and name. `sql` runs a query.
pub fn broken(sql: impl Fn(&str) -> String) -> String {
    sql("SELECT DISTINCT a.repository_id, a.name FROM tag a
         JOIN tag b ON b.repository_id = a.repository_id AND b.name = a.name AND b.id > a.id
         WHERE (b.lifetime_end_ms IS NULL OR a.lifetime_start_ms < b.lifetime_end_ms)
         AND (a.lifetime_end_ms IS NULL OR b.lifetime_start_ms < a.lifetime_end_ms)
         ORDER BY 1, 2")
}

/// Manifests that are there by halves: without what they name, and without what keeps them.
pub fn halves(sql: impl Fn(&str) -> String) -> String {
    sql("SELECT m.digest FROM manifest m
         WHERE NOT EXISTS (SELECT 1 FROM tag t WHERE t.manifest_id = m.id)
         AND NOT EXISTS (SELECT 1 FROM manifestchild c WHERE c.child_manifest_id = m.id)
         UNION SELECT m.digest FROM manifest m
         WHERE m.config_media_type IS NOT NULL
         AND NOT EXISTS (SELECT 1 FROM manifestblob b WHERE b.manifest_id = m.id)")
}
