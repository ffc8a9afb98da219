-- A registry of its own, 4 of 5: what comes from other registries, and builds.

CREATE TABLE repomirrorrule (
    id INTEGER NOT NULL PRIMARY KEY,
    uuid VARCHAR(36) NOT NULL,
    repository_id INTEGER NOT NULL REFERENCES repository (id),
    creation_date DATETIME NOT NULL,
    rule_type INTEGER NOT NULL,
    rule_value TEXT NOT NULL,
    left_child_id INTEGER REFERENCES repomirrorrule (id),
    right_child_id INTEGER REFERENCES repomirrorrule (id)
);
CREATE INDEX repomirrorrule_left_child_id ON repomirrorrule (left_child_id);
CREATE INDEX repomirrorrule_repository_id ON repomirrorrule (repository_id);
CREATE INDEX repomirrorrule_right_child_id ON repomirrorrule (right_child_id);
CREATE INDEX repomirrorrule_rule_type ON repomirrorrule (rule_type);
CREATE UNIQUE INDEX repomirrorrule_uuid ON repomirrorrule (uuid);

CREATE TABLE repomirrorconfig (
    id INTEGER NOT NULL PRIMARY KEY,
    repository_id INTEGER NOT NULL REFERENCES repository (id),
    creation_date DATETIME NOT NULL,
    is_enabled BOOLEAN NOT NULL,
    mirror_type INTEGER NOT NULL,
    internal_robot_id INTEGER NOT NULL REFERENCES "user" (id),
    external_registry_username VARCHAR(4096),
    external_registry_config TEXT NOT NULL,
    sync_interval INTEGER NOT NULL DEFAULT 60,
    sync_start_date DATETIME,
    sync_expiration_date DATETIME,
    sync_retries_remaining INTEGER NOT NULL DEFAULT 3,
    sync_status INTEGER NOT NULL,
    sync_transaction_id VARCHAR(36),
    root_rule_id INTEGER NOT NULL REFERENCES repomirrorrule (id),
    external_reference TEXT NOT NULL,
    external_registry_password VARCHAR(9000),
    skopeo_timeout BIGINT NOT NULL DEFAULT 300,
    architecture_filter TEXT
);
CREATE INDEX repomirrorconfig_internal_robot_id ON repomirrorconfig (internal_robot_id);
CREATE INDEX repomirrorconfig_mirror_type ON repomirrorconfig (mirror_type);
CREATE UNIQUE INDEX repomirrorconfig_repository_id ON repomirrorconfig (repository_id);
CREATE INDEX repomirrorconfig_root_rule_id ON repomirrorconfig (root_rule_id);
CREATE INDEX repomirrorconfig_sync_status ON repomirrorconfig (sync_status);
CREATE INDEX repomirrorconfig_sync_transaction_id ON repomirrorconfig (sync_transaction_id);

CREATE TABLE orgmirrorconfig (
    id INTEGER NOT NULL PRIMARY KEY,
    organization_id INTEGER NOT NULL REFERENCES "user" (id),
    creation_date DATETIME NOT NULL,
    is_enabled BOOLEAN NOT NULL DEFAULT true,
    mirror_type INTEGER NOT NULL DEFAULT 1,
    external_registry_type INTEGER NOT NULL,
    external_registry_url VARCHAR(2048) NOT NULL,
    external_namespace VARCHAR(255) NOT NULL,
    external_registry_username VARCHAR(4096),
    external_registry_password VARCHAR(9000),
    external_registry_config TEXT NOT NULL,
    internal_robot_id INTEGER NOT NULL REFERENCES "user" (id),
    repository_filters TEXT NOT NULL,
    visibility_id INTEGER NOT NULL REFERENCES visibility (id),
    delete_stale_repos BOOLEAN NOT NULL DEFAULT false,
    sync_interval INTEGER NOT NULL,
    sync_start_date DATETIME,
    sync_expiration_date DATETIME,
    sync_retries_remaining INTEGER NOT NULL DEFAULT 3,
    sync_status INTEGER NOT NULL DEFAULT 0,
    sync_transaction_id VARCHAR(36),
    skopeo_timeout BIGINT NOT NULL DEFAULT 300,
    architecture_filter TEXT NOT NULL DEFAULT '[]'
);
CREATE INDEX orgmirrorconfig_internal_robot_id ON orgmirrorconfig (internal_robot_id);
CREATE UNIQUE INDEX orgmirrorconfig_organization_id ON orgmirrorconfig (organization_id);
CREATE INDEX orgmirrorconfig_sync_start_date ON orgmirrorconfig (sync_start_date);
CREATE INDEX orgmirrorconfig_sync_status ON orgmirrorconfig (sync_status);

CREATE TABLE orgmirrorrepository (
    id INTEGER NOT NULL PRIMARY KEY,
    org_mirror_config_id INTEGER NOT NULL REFERENCES orgmirrorconfig (id),
    repository_name VARCHAR(255) NOT NULL,
    repository_id INTEGER REFERENCES repository (id),
    discovery_date DATETIME NOT NULL,
    sync_status INTEGER NOT NULL DEFAULT 0,
    sync_start_date DATETIME,
    sync_expiration_date DATETIME,
    last_sync_date DATETIME,
    status_message TEXT,
    creation_date DATETIME NOT NULL,
    sync_retries_remaining INTEGER NOT NULL DEFAULT 3,
    sync_transaction_id VARCHAR(36)
);
CREATE UNIQUE INDEX orgmirrorrepository_config_repo_name ON orgmirrorrepository (org_mirror_config_id, repository_name);
CREATE INDEX orgmirrorrepository_config_status ON orgmirrorrepository (org_mirror_config_id, sync_status);
CREATE INDEX orgmirrorrepository_org_mirror_config_id ON orgmirrorrepository (org_mirror_config_id);
CREATE INDEX orgmirrorrepository_repository_id ON orgmirrorrepository (repository_id);
CREATE INDEX orgmirrorrepository_sync_status ON orgmirrorrepository (sync_status);

CREATE TABLE proxycacheconfig (
    id INTEGER NOT NULL PRIMARY KEY,
    organization_id INTEGER NOT NULL REFERENCES "user" (id),
    creation_date DATETIME NOT NULL,
    upstream_registry VARCHAR(2048) NOT NULL,
    upstream_registry_username VARCHAR(4096),
    upstream_registry_password VARCHAR(4096),
    expiration_s INTEGER DEFAULT 86400,
    insecure BOOLEAN NOT NULL DEFAULT false
);

-- --- builds

CREATE TABLE buildtriggerservice (
    id INTEGER NOT NULL PRIMARY KEY,
    name VARCHAR(255) NOT NULL
);
CREATE UNIQUE INDEX buildtriggerservice_name ON buildtriggerservice (name);
INSERT INTO buildtriggerservice (id, name) VALUES
    (1, 'github'), (2, 'gitlab'), (3, 'bitbucket'), (4, 'custom-git');

CREATE TABLE repositorybuildtrigger (
    id INTEGER NOT NULL PRIMARY KEY,
    uuid VARCHAR(255) NOT NULL,
    service_id INTEGER NOT NULL REFERENCES buildtriggerservice (id),
    repository_id INTEGER NOT NULL REFERENCES repository (id),
    connected_user_id INTEGER NOT NULL REFERENCES "user" (id),
    config TEXT NOT NULL,
    write_token_id INTEGER REFERENCES accesstoken (id),
    pull_robot_id INTEGER REFERENCES "user" (id),
    disabled_reason_id INTEGER REFERENCES disablereason (id),
    enabled BOOLEAN NOT NULL DEFAULT true,
    successive_failure_count INTEGER NOT NULL DEFAULT 0,
    successive_internal_error_count INTEGER NOT NULL DEFAULT 0,
    disabled_datetime DATETIME,
    secure_auth_token VARCHAR(255),
    secure_private_key TEXT,
    fully_migrated BOOLEAN NOT NULL DEFAULT false
);
CREATE INDEX repositorybuildtrigger_connected_user_id ON repositorybuildtrigger (connected_user_id);
CREATE INDEX repositorybuildtrigger_disabled_datetime ON repositorybuildtrigger (disabled_datetime);
CREATE INDEX repositorybuildtrigger_disabled_reason_id ON repositorybuildtrigger (disabled_reason_id);
CREATE INDEX repositorybuildtrigger_pull_robot_id ON repositorybuildtrigger (pull_robot_id);
CREATE INDEX repositorybuildtrigger_repository_id ON repositorybuildtrigger (repository_id);
CREATE INDEX repositorybuildtrigger_service_id ON repositorybuildtrigger (service_id);
CREATE INDEX repositorybuildtrigger_uuid ON repositorybuildtrigger (uuid);
CREATE INDEX repositorybuildtrigger_write_token_id ON repositorybuildtrigger (write_token_id);

CREATE TABLE repositorybuild (
    id INTEGER NOT NULL PRIMARY KEY,
    uuid VARCHAR(255) NOT NULL,
    repository_id INTEGER NOT NULL REFERENCES repository (id),
    access_token_id INTEGER NOT NULL REFERENCES accesstoken (id),
    resource_key VARCHAR(255),
    job_config TEXT NOT NULL,
    phase VARCHAR(255) NOT NULL,
    started DATETIME NOT NULL,
    display_name VARCHAR(255) NOT NULL,
    trigger_id INTEGER REFERENCES repositorybuildtrigger (id),
    pull_robot_id INTEGER REFERENCES "user" (id),
    logs_archived BOOLEAN NOT NULL DEFAULT false,
    queue_id VARCHAR(255)
);
CREATE INDEX repositorybuild_access_token_id ON repositorybuild (access_token_id);
CREATE INDEX repositorybuild_logs_archived ON repositorybuild (logs_archived);
CREATE INDEX repositorybuild_pull_robot_id ON repositorybuild (pull_robot_id);
CREATE INDEX repositorybuild_queue_id ON repositorybuild (queue_id);
CREATE INDEX repositorybuild_repository_id ON repositorybuild (repository_id);
CREATE INDEX repositorybuild_repository_id_started_phase ON repositorybuild (repository_id, started, phase);
CREATE INDEX repositorybuild_resource_key ON repositorybuild (resource_key);
CREATE INDEX repositorybuild_started ON repositorybuild (started);
CREATE INDEX repositorybuild_started_logs_archived_phase ON repositorybuild (started, logs_archived, phase);
CREATE INDEX repositorybuild_trigger_id ON repositorybuild (trigger_id);
CREATE INDEX repositorybuild_uuid ON repositorybuild (uuid);
