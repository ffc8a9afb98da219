-- A registry of its own, 3 of 5: manifests, tags, blobs and uploads.

CREATE TABLE mediatype (
    id INTEGER NOT NULL PRIMARY KEY,
    name VARCHAR(255) NOT NULL
);
CREATE UNIQUE INDEX mediatype_name ON mediatype (name);
INSERT INTO mediatype (id, name) VALUES
    (1, 'text/plain'), (2, 'application/json'), (3, 'text/markdown'),
    (4, 'application/vnd.cnr.blob.v0.tar+gzip'),
    (5, 'application/vnd.cnr.package-manifest.helm.v0.json'),
    (6, 'application/vnd.cnr.package-manifest.kpm.v0.json'),
    (7, 'application/vnd.cnr.package-manifest.docker-compose.v0.json'),
    (8, 'application/vnd.cnr.package.kpm.v0.tar+gzip'),
    (9, 'application/vnd.cnr.package.helm.v0.tar+gzip'),
    (10, 'application/vnd.cnr.package.docker-compose.v0.tar+gzip'),
    (11, 'application/vnd.cnr.manifests.v0.json'),
    (12, 'application/vnd.cnr.manifest.list.v0.json'),
    (13, 'application/vnd.docker.distribution.manifest.v1+prettyjws'),
    (14, 'application/vnd.docker.distribution.manifest.v1+json'),
    (15, 'application/vnd.docker.distribution.manifest.list.v2+json'),
    (16, 'application/vnd.docker.distribution.manifest.v2+json'),
    (17, 'application/vnd.oci.image.index.v1+json'),
    (18, 'application/vnd.oci.image.manifest.v1+json');

-- The bytes as they came; one row a repository and digest.
CREATE TABLE manifest (
    id INTEGER NOT NULL PRIMARY KEY,
    repository_id INTEGER NOT NULL REFERENCES repository (id),
    digest VARCHAR(255) NOT NULL,
    media_type_id INTEGER NOT NULL REFERENCES mediatype (id),
    manifest_bytes TEXT NOT NULL,
    config_media_type VARCHAR(255),
    layers_compressed_size BIGINT,
    subject VARCHAR(255),
    subject_backfilled BOOLEAN,
    artifact_type VARCHAR(255),
    artifact_type_backfilled BOOLEAN
);
CREATE INDEX manifest_artifact_type_backfilled ON manifest (artifact_type_backfilled);
CREATE INDEX manifest_digest ON manifest (digest);
CREATE INDEX manifest_media_type_id ON manifest (media_type_id);
CREATE INDEX manifest_repository_id ON manifest (repository_id);
CREATE INDEX manifest_repository_id_artifact_type ON manifest (repository_id, artifact_type);
CREATE INDEX manifest_repository_id_config_media_type ON manifest (repository_id, config_media_type);
CREATE UNIQUE INDEX manifest_repository_id_digest ON manifest (repository_id, digest);
CREATE INDEX manifest_repository_id_media_type_id ON manifest (repository_id, media_type_id);
CREATE INDEX manifest_repository_id_subject ON manifest (repository_id, subject);
CREATE INDEX manifest_subject_backfilled ON manifest (subject_backfilled);

-- What an index lists.
CREATE TABLE manifestchild (
    id INTEGER NOT NULL PRIMARY KEY,
    repository_id INTEGER NOT NULL REFERENCES repository (id),
    manifest_id INTEGER NOT NULL REFERENCES manifest (id),
    child_manifest_id INTEGER NOT NULL REFERENCES manifest (id)
);
CREATE INDEX manifestchild_child_manifest_id ON manifestchild (child_manifest_id);
CREATE INDEX manifestchild_manifest_id ON manifestchild (manifest_id);
CREATE UNIQUE INDEX manifestchild_manifest_id_child_manifest_id ON manifestchild (manifest_id, child_manifest_id);
CREATE INDEX manifestchild_repository_id ON manifestchild (repository_id);
CREATE INDEX manifestchild_repository_id_child_manifest_id ON manifestchild (repository_id, child_manifest_id);
CREATE INDEX manifestchild_repository_id_manifest_id ON manifestchild (repository_id, manifest_id);
CREATE INDEX manifestchild_repository_id_manifest_id_child_manifest_id ON manifestchild (repository_id, manifest_id, child_manifest_id);

CREATE TABLE tagkind (
    id INTEGER NOT NULL PRIMARY KEY,
    name VARCHAR(255) NOT NULL
);
CREATE UNIQUE INDEX tagkind_name ON tagkind (name);
INSERT INTO tagkind (id, name) VALUES
    (1, 'tag');

-- Alive while lifetime_end_ms is NULL or ahead. A moved tag leaves its old row.
CREATE TABLE tag (
    id INTEGER NOT NULL PRIMARY KEY,
    name VARCHAR(255) NOT NULL,
    repository_id INTEGER NOT NULL REFERENCES repository (id),
    manifest_id INTEGER REFERENCES manifest (id),
    lifetime_start_ms BIGINT NOT NULL,
    lifetime_end_ms BIGINT,
    hidden BOOLEAN NOT NULL DEFAULT false,
    reversion BOOLEAN NOT NULL DEFAULT false,
    tag_kind_id INTEGER NOT NULL REFERENCES tagkind (id),
    linked_tag_id INTEGER REFERENCES tag (id),
    immutable BOOLEAN NOT NULL DEFAULT false
);
CREATE INDEX tag_lifetime_end_ms ON tag (lifetime_end_ms);
CREATE INDEX tag_linked_tag_id ON tag (linked_tag_id);
CREATE INDEX tag_manifest_id ON tag (manifest_id);
CREATE INDEX tag_manifest_id_immutable ON tag (manifest_id, immutable);
CREATE INDEX tag_manifest_id_lifetime_end_ms ON tag (manifest_id, lifetime_end_ms);
CREATE INDEX tag_repository_id ON tag (repository_id);
CREATE INDEX tag_repository_id_immutable ON tag (repository_id, immutable);
CREATE INDEX tag_repository_id_lifetime_end_ms ON tag (repository_id, lifetime_end_ms);
CREATE INDEX tag_repository_id_lifetime_start_ms ON tag (repository_id, lifetime_start_ms);
CREATE INDEX tag_repository_id_name ON tag (repository_id, name);
CREATE INDEX tag_repository_id_name_hidden ON tag (repository_id, name, hidden);
CREATE UNIQUE INDEX tag_repository_id_name_lifetime_end_ms ON tag (repository_id, name, lifetime_end_ms);
CREATE INDEX tag_repository_id_name_tag_kind_id ON tag (repository_id, name, tag_kind_id);
CREATE INDEX tag_tag_kind_id ON tag (tag_kind_id);

CREATE TABLE tagnotificationsuccess (
    id INTEGER NOT NULL PRIMARY KEY,
    notification_id INTEGER NOT NULL REFERENCES repositorynotification (id),
    tag_id INTEGER NOT NULL REFERENCES tag (id),
    method_id INTEGER NOT NULL REFERENCES externalnotificationmethod (id)
);
CREATE INDEX tagnotificationsuccess_notification_id ON tagnotificationsuccess (notification_id);
CREATE INDEX tagnotificationsuccess_tag_id ON tagnotificationsuccess (tag_id);

CREATE TABLE labelsourcetype (
    id INTEGER NOT NULL PRIMARY KEY,
    name VARCHAR(255) NOT NULL,
    mutable BOOLEAN NOT NULL
);
CREATE UNIQUE INDEX labelsourcetype_name ON labelsourcetype (name);
INSERT INTO labelsourcetype (id, name, mutable) VALUES
    (1, 'manifest', false), (2, 'api', true), (3, 'internal', false);

CREATE TABLE label (
    id INTEGER NOT NULL PRIMARY KEY,
    uuid VARCHAR(255) NOT NULL,
    key VARCHAR(255) NOT NULL,
    value TEXT NOT NULL,
    media_type_id INTEGER NOT NULL REFERENCES mediatype (id),
    source_type_id INTEGER NOT NULL REFERENCES labelsourcetype (id)
);
CREATE INDEX label_key ON label (key);
CREATE INDEX label_media_type_id ON label (media_type_id);
CREATE INDEX label_source_type_id ON label (source_type_id);
CREATE UNIQUE INDEX label_uuid ON label (uuid);

CREATE TABLE manifestlabel (
    id INTEGER NOT NULL PRIMARY KEY,
    repository_id INTEGER NOT NULL REFERENCES repository (id),
    manifest_id INTEGER NOT NULL REFERENCES manifest (id),
    label_id INTEGER NOT NULL REFERENCES label (id)
);
CREATE INDEX manifestlabel_label_id ON manifestlabel (label_id);
CREATE INDEX manifestlabel_manifest_id ON manifestlabel (manifest_id);
CREATE UNIQUE INDEX manifestlabel_manifest_id_label_id ON manifestlabel (manifest_id, label_id);
CREATE INDEX manifestlabel_repository_id ON manifestlabel (repository_id);

CREATE TABLE manifestsecuritystatus (
    id INTEGER NOT NULL PRIMARY KEY,
    manifest_id INTEGER NOT NULL REFERENCES manifest (id),
    repository_id INTEGER NOT NULL REFERENCES repository (id),
    index_status INTEGER NOT NULL,
    error_json TEXT NOT NULL,
    last_indexed DATETIME NOT NULL,
    indexer_hash VARCHAR(128) NOT NULL,
    indexer_version INTEGER NOT NULL,
    metadata_json TEXT NOT NULL
);
CREATE INDEX manifestsecuritystatus_index_status ON manifestsecuritystatus (index_status);
CREATE INDEX manifestsecuritystatus_indexer_hash ON manifestsecuritystatus (indexer_hash);
CREATE INDEX manifestsecuritystatus_indexer_version ON manifestsecuritystatus (indexer_version);
CREATE INDEX manifestsecuritystatus_last_indexed ON manifestsecuritystatus (last_indexed);
CREATE UNIQUE INDEX manifestsecuritystatus_manifest_id ON manifestsecuritystatus (manifest_id);
CREATE INDEX manifestsecuritystatus_repository_id ON manifestsecuritystatus (repository_id);

CREATE TABLE tagpullstatistics (
    id INTEGER NOT NULL PRIMARY KEY,
    repository_id INTEGER NOT NULL REFERENCES repository (id),
    tag_name VARCHAR(255) NOT NULL,
    tag_pull_count BIGINT NOT NULL,
    last_tag_pull_date DATETIME NOT NULL,
    current_manifest_digest VARCHAR(255)
);
CREATE UNIQUE INDEX tagpullstatistics_repository_id_tag_name ON tagpullstatistics (repository_id, tag_name);

CREATE TABLE manifestpullstatistics (
    id INTEGER NOT NULL PRIMARY KEY,
    repository_id INTEGER NOT NULL REFERENCES repository (id),
    manifest_digest VARCHAR(255) NOT NULL,
    manifest_pull_count BIGINT NOT NULL,
    last_manifest_pull_date DATETIME NOT NULL
);
CREATE UNIQUE INDEX manifestpullstatistics_repository_id_manifest_digest ON manifestpullstatistics (repository_id, manifest_digest);

-- --- blobs

-- A blob. A row that is written has to say cas_path true: the default is for rows of old.
CREATE TABLE imagestorage (
    id INTEGER NOT NULL PRIMARY KEY,
    uuid VARCHAR(255) NOT NULL,
    image_size BIGINT,
    uncompressed_size BIGINT,
    uploading BOOLEAN,
    cas_path BOOLEAN NOT NULL DEFAULT false,
    content_checksum VARCHAR(255)
);
CREATE INDEX imagestorage_content_checksum ON imagestorage (content_checksum);
CREATE UNIQUE INDEX imagestorage_uuid ON imagestorage (uuid);

-- Names of DISTRIBUTED_STORAGE_CONFIG; the one in use is added when the file is made.
CREATE TABLE imagestoragelocation (
    id INTEGER NOT NULL PRIMARY KEY,
    name VARCHAR(255) NOT NULL
);
CREATE UNIQUE INDEX imagestoragelocation_name ON imagestoragelocation (name);
INSERT INTO imagestoragelocation (id, name) VALUES
    (1, 's3_us_east_1'), (2, 's3_eu_west_1'), (3, 's3_ap_southeast_1'),
    (4, 's3_ap_southeast_2'), (5, 's3_ap_northeast_1'), (6, 's3_sa_east_1'), (7, 'local'),
    (8, 's3_us_west_1');

CREATE TABLE imagestorageplacement (
    id INTEGER NOT NULL PRIMARY KEY,
    storage_id INTEGER NOT NULL REFERENCES imagestorage (id),
    location_id INTEGER NOT NULL REFERENCES imagestoragelocation (id)
);
CREATE INDEX imagestorageplacement_location_id ON imagestorageplacement (location_id);
CREATE INDEX imagestorageplacement_storage_id ON imagestorageplacement (storage_id);
CREATE UNIQUE INDEX imagestorageplacement_storage_id_location_id ON imagestorageplacement (storage_id, location_id);

CREATE TABLE manifestblob (
    id INTEGER NOT NULL PRIMARY KEY,
    repository_id INTEGER NOT NULL REFERENCES repository (id),
    manifest_id INTEGER NOT NULL REFERENCES manifest (id),
    blob_id INTEGER NOT NULL REFERENCES imagestorage (id)
);
CREATE INDEX manifestblob_blob_id ON manifestblob (blob_id);
CREATE INDEX manifestblob_manifest_id ON manifestblob (manifest_id);
CREATE UNIQUE INDEX manifestblob_manifest_id_blob_id ON manifestblob (manifest_id, blob_id);
CREATE INDEX manifestblob_repository_id ON manifestblob (repository_id);
CREATE INDEX manifestblob_repository_id_blob_id ON manifestblob (repository_id, blob_id);

-- Keeps an uploaded blob until a manifest does.
CREATE TABLE uploadedblob (
    id INTEGER NOT NULL PRIMARY KEY,
    repository_id INTEGER NOT NULL REFERENCES repository (id),
    blob_id INTEGER NOT NULL REFERENCES imagestorage (id),
    uploaded_at DATETIME NOT NULL,
    expires_at DATETIME NOT NULL
);
CREATE INDEX uploadedblob_blob_id ON uploadedblob (blob_id);
CREATE INDEX uploadedblob_expires_at ON uploadedblob (expires_at);
CREATE INDEX uploadedblob_repository_id ON uploadedblob (repository_id);

-- An upload under way. `created` has no default here: in Quay it is the hour of the migration.
CREATE TABLE blobupload (
    id INTEGER NOT NULL PRIMARY KEY,
    repository_id INTEGER NOT NULL REFERENCES repository (id),
    uuid VARCHAR(255) NOT NULL,
    byte_count BIGINT NOT NULL,
    sha_state TEXT,
    location_id INTEGER NOT NULL REFERENCES imagestoragelocation (id),
    storage_metadata TEXT,
    chunk_count INTEGER NOT NULL DEFAULT 0,
    uncompressed_byte_count BIGINT,
    created DATETIME NOT NULL,
    piece_sha_state TEXT,
    piece_hashes TEXT
);
CREATE INDEX blobupload_created ON blobupload (created);
CREATE INDEX blobupload_location_id ON blobupload (location_id);
CREATE INDEX blobupload_repository_id ON blobupload (repository_id);
CREATE UNIQUE INDEX blobupload_repository_id_uuid ON blobupload (repository_id, uuid);
CREATE UNIQUE INDEX blobupload_uuid ON blobupload (uuid);

CREATE TABLE imagestoragesignaturekind (
    id INTEGER NOT NULL PRIMARY KEY,
    name VARCHAR(255) NOT NULL
);
CREATE UNIQUE INDEX imagestoragesignaturekind_name ON imagestoragesignaturekind (name);
INSERT INTO imagestoragesignaturekind (id, name) VALUES
    (1, 'gpg2');

CREATE TABLE imagestoragesignature (
    id INTEGER NOT NULL PRIMARY KEY,
    storage_id INTEGER NOT NULL REFERENCES imagestorage (id),
    kind_id INTEGER NOT NULL REFERENCES imagestoragesignaturekind (id),
    signature TEXT,
    uploading BOOLEAN
);
CREATE INDEX imagestoragesignature_kind_id ON imagestoragesignature (kind_id);
CREATE UNIQUE INDEX imagestoragesignature_kind_id_storage_id ON imagestoragesignature (kind_id, storage_id);
CREATE INDEX imagestoragesignature_storage_id ON imagestoragesignature (storage_id);

CREATE TABLE imagestoragetransformation (
    id INTEGER NOT NULL PRIMARY KEY,
    name VARCHAR(255) NOT NULL
);
CREATE UNIQUE INDEX imagestoragetransformation_name ON imagestoragetransformation (name);
INSERT INTO imagestoragetransformation (id, name) VALUES
    (1, 'squash'), (2, 'aci');

-- --- application registry, of old

CREATE TABLE apprtagkind (
    id INTEGER NOT NULL PRIMARY KEY,
    name VARCHAR(255) NOT NULL
);
CREATE UNIQUE INDEX apprtagkind_name ON apprtagkind (name);
INSERT INTO apprtagkind (id, name) VALUES
    (1, 'tag'), (2, 'release'), (3, 'channel');

CREATE TABLE apprblob (
    id INTEGER NOT NULL PRIMARY KEY,
    digest VARCHAR(255) NOT NULL,
    media_type_id INTEGER NOT NULL REFERENCES mediatype (id),
    size BIGINT NOT NULL,
    uncompressed_size BIGINT
);
CREATE UNIQUE INDEX apprblob_digest ON apprblob (digest);
CREATE INDEX apprblob_media_type_id ON apprblob (media_type_id);

CREATE TABLE apprblobplacementlocation (
    id INTEGER NOT NULL PRIMARY KEY,
    name VARCHAR(255) NOT NULL
);
CREATE UNIQUE INDEX apprblobplacementlocation_name ON apprblobplacementlocation (name);
INSERT INTO apprblobplacementlocation (id, name) VALUES
    (1, 'local_eu'), (2, 'local_us');

CREATE TABLE apprblobplacement (
    id INTEGER NOT NULL PRIMARY KEY,
    blob_id INTEGER NOT NULL REFERENCES apprblob (id),
    location_id INTEGER NOT NULL REFERENCES apprblobplacementlocation (id)
);
CREATE INDEX apprblobplacement_blob_id ON apprblobplacement (blob_id);
CREATE UNIQUE INDEX apprblobplacement_blob_id_location_id ON apprblobplacement (blob_id, location_id);
CREATE INDEX apprblobplacement_location_id ON apprblobplacement (location_id);

CREATE TABLE apprmanifest (
    id INTEGER NOT NULL PRIMARY KEY,
    digest VARCHAR(255) NOT NULL,
    media_type_id INTEGER NOT NULL REFERENCES mediatype (id),
    manifest_json TEXT NOT NULL
);
CREATE UNIQUE INDEX apprmanifest_digest ON apprmanifest (digest);
CREATE INDEX apprmanifest_media_type_id ON apprmanifest (media_type_id);

CREATE TABLE apprmanifestblob (
    id INTEGER NOT NULL PRIMARY KEY,
    manifest_id INTEGER NOT NULL REFERENCES apprmanifest (id),
    blob_id INTEGER NOT NULL REFERENCES apprblob (id)
);
CREATE INDEX apprmanifestblob_blob_id ON apprmanifestblob (blob_id);
CREATE INDEX apprmanifestblob_manifest_id ON apprmanifestblob (manifest_id);
CREATE UNIQUE INDEX apprmanifestblob_manifest_id_blob_id ON apprmanifestblob (manifest_id, blob_id);

CREATE TABLE apprmanifestlist (
    id INTEGER NOT NULL PRIMARY KEY,
    digest VARCHAR(255) NOT NULL,
    manifest_list_json TEXT NOT NULL,
    schema_version VARCHAR(255) NOT NULL,
    media_type_id INTEGER NOT NULL REFERENCES mediatype (id)
);
CREATE UNIQUE INDEX apprmanifestlist_digest ON apprmanifestlist (digest);
CREATE INDEX apprmanifestlist_media_type_id ON apprmanifestlist (media_type_id);

CREATE TABLE apprmanifestlistmanifest (
    id INTEGER NOT NULL PRIMARY KEY,
    manifest_list_id INTEGER NOT NULL REFERENCES apprmanifestlist (id),
    manifest_id INTEGER NOT NULL REFERENCES apprmanifest (id),
    operating_system VARCHAR(255),
    architecture VARCHAR(255),
    platform_json TEXT,
    media_type_id INTEGER NOT NULL REFERENCES mediatype (id)
);
CREATE INDEX apprmanifestlistmanifest_manifest_id ON apprmanifestlistmanifest (manifest_id);
CREATE INDEX apprmanifestlistmanifest_manifest_list_id ON apprmanifestlistmanifest (manifest_list_id);
CREATE INDEX apprmanifestlistmanifest_manifest_list_id_media_type_id ON apprmanifestlistmanifest (manifest_list_id, media_type_id);
CREATE INDEX apprmanifestlistmanifest_manifest_list_id_operating_system_arch ON apprmanifestlistmanifest (manifest_list_id, operating_system, architecture, media_type_id);
CREATE INDEX apprmanifestlistmanifest_media_type_id ON apprmanifestlistmanifest (media_type_id);

CREATE TABLE apprtag (
    id INTEGER NOT NULL PRIMARY KEY,
    name VARCHAR(255) NOT NULL,
    repository_id INTEGER NOT NULL REFERENCES repository (id),
    manifest_list_id INTEGER REFERENCES apprmanifestlist (id),
    lifetime_start BIGINT NOT NULL,
    lifetime_end BIGINT,
    hidden BOOLEAN NOT NULL,
    reverted BOOLEAN NOT NULL,
    protected BOOLEAN NOT NULL,
    tag_kind_id INTEGER NOT NULL REFERENCES apprtagkind (id),
    linked_tag_id INTEGER REFERENCES apprtag (id)
);
CREATE INDEX apprtag_lifetime_end ON apprtag (lifetime_end);
CREATE INDEX apprtag_linked_tag_id ON apprtag (linked_tag_id);
CREATE INDEX apprtag_manifest_list_id ON apprtag (manifest_list_id);
CREATE INDEX apprtag_repository_id ON apprtag (repository_id);
CREATE INDEX apprtag_repository_id_name ON apprtag (repository_id, name);
CREATE INDEX apprtag_repository_id_name_hidden ON apprtag (repository_id, name, hidden);
CREATE UNIQUE INDEX apprtag_repository_id_name_lifetime_end ON apprtag (repository_id, name, lifetime_end);
CREATE INDEX apprtag_tag_kind_id ON apprtag (tag_kind_id);
