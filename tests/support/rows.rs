//! Rows and files as Quay writes them: one function for each thing that Quay creates.

use std::path::{Path, PathBuf};

use chrono::{TimeDelta, Utc};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

use super::images::{Blob, Manifest};
use super::keys::{InstanceKey, encrypt_field, hash_password, random_secret};
use super::registry_fixture::Login;

/// One transaction that fills an empty database.
pub struct Rows {
    client: Client,
    storage: PathBuf,
}

pub enum Lifetime {
    Forever,
    Expired,
    /// Keeps a manifest alive without giving it a name.
    Hidden,
}

impl Rows {
    pub async fn begin(db_uri: &str, storage: &Path) -> Rows {
        let schema = quay_sidecar::catalog::schema::contract().ddl_postgres();
        let rows = Rows::more(db_uri, storage).await;
        rows.client.batch_execute(&schema).await.expect("the schema of the contract");
        rows.insert("INSERT INTO imagestoragelocation (name) VALUES ('default') RETURNING id", &[])
            .await;
        rows
    }

    /// In a database that is filled already.
    pub async fn more(db_uri: &str, storage: &Path) -> Rows {
        let (client, connection) = tokio_postgres::connect(db_uri, NoTls)
            .await
            .unwrap_or_else(|e| panic!("{db_uri}: {e}"));
        tokio::spawn(connection);
        client.batch_execute("BEGIN").await.expect("BEGIN");
        Rows { client, storage: storage.to_owned() }
    }

    pub async fn commit(self) {
        self.client.batch_execute("COMMIT").await.expect("COMMIT");
    }

    pub async fn user(&mut self, username: &str, enabled: bool) -> Login {
        let password = random_secret(20);
        let (email, hash) = (format!("{username}@example.com"), hash_password(&password));
        let (id, uuid) = self.namespace(username, &email, Some(hash), "user", enabled).await;
        Login { id, uuid, username: username.to_owned(), password }
    }

    /// With the team `owners` that rules it.
    pub async fn organization(&mut self, name: &str, owner: &Login) -> i32 {
        let email = format!("{name}@example.com");
        let (id, _) = self.namespace(name, &email, None, "organization", true).await;
        let team = self
            .insert(
                "INSERT INTO team (name, organization_id, role_id, description)
                 SELECT 'owners', $1, id, '' FROM teamrole WHERE name = 'admin' RETURNING id",
                &[&id],
            )
            .await;
        let member = "INSERT INTO teammember (user_id, team_id) VALUES ($1, $2) RETURNING id";
        self.insert(member, &[&owner.id, &team]).await;
        id
    }

    pub async fn robot(&mut self, username: &str, field_secret: &str) -> Login {
        let password = random_secret(64);
        let email = Uuid::new_v4().to_string();
        let (id, uuid) = self.namespace(username, &email, None, "robot", true).await;
        self.insert(
            "INSERT INTO robotaccounttoken (robot_account_id, token, fully_migrated)
             VALUES ($1, $2, true) RETURNING id",
            &[&id, &encrypt_field(field_secret, &password)],
        )
        .await;
        Login { id, uuid, username: username.to_owned(), password }
    }

    pub async fn repository(
        &mut self,
        namespace: i32,
        name: &str,
        visibility: &str,
        kind: &str,
        state: i32,
    ) -> i32 {
        self.insert(
            "INSERT INTO repository
                 (namespace_user_id, name, visibility_id, badge_token, kind_id, trust_enabled, state)
             SELECT $1, $2, v.id, $3, k.id, false, $4 FROM visibility v, repositorykind k
             WHERE v.name = $5 AND k.name = $6 RETURNING id",
            &[&namespace, &name, &Uuid::new_v4().to_string(), &state, &visibility, &kind],
        )
        .await
    }

    pub async fn permission(&mut self, user: i32, repository: i32, role: &str) {
        self.insert(
            "INSERT INTO repositorypermission (user_id, repository_id, role_id)
             SELECT $1, $2, id FROM role WHERE name = $3 RETURNING id",
            &[&user, &repository, &role],
        )
        .await;
    }

    pub async fn instance_key(&mut self, key: &InstanceKey, hostname: &str) {
        let now = Utc::now().naive_utc();
        let approval = self
            .insert(
                "INSERT INTO servicekeyapproval (approval_type, approved_date, notes)
                 VALUES ('ServiceKeyApprovalType.AUTOMATIC', $1, '') RETURNING id",
                &[&now],
            )
            .await;
        // Quay's keys live for two hours and are refreshed; nobody refreshes this one.
        let expiration = now + TimeDelta::days(3650);
        self.insert(
            "INSERT INTO servicekey
                 (name, kid, service, jwk, metadata, created_date, expiration_date, approval_id)
             VALUES ($1, $2, 'quay', $3, '{}', $4, $5, $6) RETURNING id",
            &[
                &format!("http://{hostname}"),
                &key.kid,
                &key.jwk.to_string(),
                &now,
                &expiration,
                &approval,
            ],
        )
        .await;
    }

    /// A manifest with its blobs and children, all of them stored when they are not yet.
    pub async fn manifest(&mut self, repository: i32, manifest: &Manifest) -> i32 {
        let known = "SELECT id FROM manifest WHERE repository_id = $1 AND digest = $2";
        let known =
            self.client.query_opt(known, &[&repository, &manifest.digest]).await.expect(known);
        if let Some(row) = known {
            return row.get(0);
        }
        let bytes = std::str::from_utf8(&manifest.bytes).expect("JSON");
        let is_index = manifest.blobs.is_empty();
        let size = manifest.blobs.iter().skip(1).map(|blob| blob.bytes.len() as i64).sum::<i64>();
        let id = self
            .insert(
                "INSERT INTO manifest
                     (repository_id, digest, media_type_id, manifest_bytes, config_media_type,
                      layers_compressed_size, subject, subject_backfilled, artifact_type,
                      artifact_type_backfilled)
                 SELECT $1, $2, id, $4, $5, $6, $7, true, $8, true FROM mediatype WHERE name = $3
                 RETURNING id",
                &[
                    &repository,
                    &manifest.digest,
                    &manifest.media_type,
                    &bytes,
                    &manifest.config_media_type,
                    &(!is_index).then_some(size),
                    &manifest.subject,
                    &manifest.artifact_type,
                ],
            )
            .await;
        for blob in &manifest.blobs {
            let blob_id = self.blob(blob).await;
            let sql = "INSERT INTO manifestblob (repository_id, manifest_id, blob_id) VALUES ($1, $2, $3)";
            self.client.execute(sql, &[&repository, &id, &blob_id]).await.expect(sql);
        }
        for child in &manifest.children {
            let child = Box::pin(self.manifest(repository, child)).await;
            self.insert(
                "INSERT INTO manifestchild (repository_id, manifest_id, child_manifest_id)
                 VALUES ($1, $2, $3) RETURNING id",
                &[&repository, &id, &child],
            )
            .await;
        }
        id
    }

    pub async fn tag(&mut self, repository: i32, name: &str, manifest: i32, lifetime: Lifetime) {
        let now = Utc::now().timestamp_millis();
        let (end, hidden) = match lifetime {
            Lifetime::Forever => (None, false),
            Lifetime::Expired => (Some(now - 60_000), false),
            Lifetime::Hidden => (None, true),
        };
        self.insert(
            "INSERT INTO tag (name, repository_id, manifest_id, lifetime_start_ms, lifetime_end_ms,
                              hidden, reversion, immutable, tag_kind_id)
             SELECT $1, $2, $3, $4, $5, $6, false, false, id FROM tagkind WHERE name = 'tag'
             RETURNING id",
            &[&name, &repository, &manifest, &(now - 120_000), &end, &hidden],
        )
        .await;
    }

    /// `secret` is encrypted.
    pub async fn app_token(&mut self, user: i32, name: &str, secret: &str) {
        self.insert(
            "INSERT INTO appspecificauthtoken (user_id, uuid, title, created, token_name, token_secret)
             VALUES ($1, $2, 'laptop', now(), $3, $4) RETURNING id",
            &[&user, &Uuid::new_v4().to_string(), &name, &secret],
        )
        .await;
    }

    /// That may read what the user may; `code` is hashed.
    pub async fn oauth_token(&mut self, user: i32, name: &str, code: &str) {
        let application = self
            .insert(
                "INSERT INTO oauthapplication
                     (client_id, redirect_uri, application_uri, organization_id, name, description)
                 VALUES ('client', '', '', $1, 'ci', '') RETURNING id",
                &[&user],
            )
            .await;
        self.insert(
            "INSERT INTO oauthaccesstoken (uuid, application_id, authorized_user_id, scope,
                 token_type, expires_at, data, token_code, token_name)
             VALUES ($1, $2, $3, 'repo:read', 'Bearer', now() + interval '1 day', '', $4, $5)
             RETURNING id",
            &[&Uuid::new_v4().to_string(), &application, &user, &code, &name],
        )
        .await;
    }

    /// A blob that was uploaded to a repository, but that no manifest of it uses.
    pub async fn upload(&mut self, repository: i32, blob: &Blob) {
        let (id, now) = (self.blob(blob).await, Utc::now().naive_utc());
        let sql = "INSERT INTO uploadedblob (repository_id, blob_id, uploaded_at, expires_at)
                   VALUES ($1, $2, $3, $4)";
        let values: [&(dyn ToSql + Sync); 4] =
            [&repository, &id, &now, &(now + TimeDelta::hours(1))];
        self.client.execute(sql, &values).await.expect(sql);
    }

    /// Where blobs lay before Quay named them by digest.
    pub async fn move_to_legacy_path(&mut self, blob: &Blob) {
        let sql =
            "UPDATE imagestorage SET cas_path = false WHERE content_checksum = $1 RETURNING uuid";
        let uuid: String = self.client.query_one(sql, &[&blob.digest]).await.expect(sql).get(0);
        let folder = self.storage.join("sharedimages").join(uuid);
        std::fs::create_dir_all(&folder).expect("our own folder");
        std::fs::rename(cas_path(&self.storage, &blob.digest), folder.join("layer"))
            .expect("it was written");
    }

    /// One row for each digest, and its bytes under the digest's path.
    async fn blob(&mut self, blob: &Blob) -> i32 {
        let known = "SELECT id FROM imagestorage WHERE content_checksum = $1";
        if let Some(row) = self.client.query_opt(known, &[&blob.digest]).await.expect(known) {
            return row.get(0);
        }
        let path = cas_path(&self.storage, &blob.digest);
        std::fs::create_dir_all(path.parent().expect("it is in a folder")).expect("our own folder");
        std::fs::write(&path, &blob.bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let uncompressed = blob.uncompressed.as_ref().map(|(_, length)| *length as i64);
        // Quay never clears `uploading`.
        let id = self
            .insert(
                "INSERT INTO imagestorage
                     (uuid, image_size, uncompressed_size, uploading, cas_path, content_checksum)
                 VALUES ($1, $2, $3, true, true, $4) RETURNING id",
                &[
                    &Uuid::new_v4().to_string(),
                    &(blob.bytes.len() as i64),
                    &uncompressed,
                    &blob.digest,
                ],
            )
            .await;
        self.insert(
            "INSERT INTO imagestorageplacement (storage_id, location_id)
             SELECT $1, id FROM imagestoragelocation WHERE name = 'default' RETURNING id",
            &[&id],
        )
        .await;
        id
    }

    async fn namespace(
        &mut self,
        username: &str,
        email: &str,
        password_hash: Option<String>,
        kind: &str,
        enabled: bool,
    ) -> (i32, String) {
        let (uuid, now) = (Uuid::new_v4().to_string(), Utc::now().naive_utc());
        let id = self
            .insert(
                "INSERT INTO \"user\"
                     (uuid, username, password_hash, email, verified, organization, robot,
                      invoice_email, invalid_login_attempts, last_invalid_login,
                      removed_tag_expiration_s, enabled, creation_date)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, false, 0, $8, 1209600, $9, $8) RETURNING id",
                &[
                    &uuid,
                    &username,
                    &password_hash,
                    &email,
                    &(kind == "user"),
                    &(kind == "organization"),
                    &(kind == "robot"),
                    &now,
                    &enabled,
                ],
            )
            .await;
        (id, uuid)
    }

    async fn insert(&self, sql: &str, values: &[&(dyn ToSql + Sync)]) -> i32 {
        let row = self.client.query_one(sql, values).await;
        row.unwrap_or_else(|e| panic!("{sql}: {e:?}")).get(0)
    }
}

/// `sha256/ab/abcdef…`, under the folder of the storage.
pub fn cas_path(storage: &Path, digest: &str) -> PathBuf {
    let (algorithm, hex) = digest.split_once(':').expect("a digest");
    storage.join(algorithm).join(&hex[..2]).join(hex)
}
