-- A registry of its own, 2 of 5: repositories, who may do what, and what is decided about them.

CREATE TABLE visibility (
    id INTEGER NOT NULL PRIMARY KEY,
    name VARCHAR(255) NOT NULL
);
CREATE UNIQUE INDEX visibility_name ON visibility (name);
INSERT INTO visibility (id, name) VALUES
    (1, 'public'), (2, 'private');

CREATE TABLE repositorykind (
    id INTEGER NOT NULL PRIMARY KEY,
    name VARCHAR(255) NOT NULL
);
CREATE UNIQUE INDEX repositorykind_name ON repositorykind (name);
INSERT INTO repositorykind (id, name) VALUES
    (1, 'image'), (2, 'application');

-- State 0 is normal, 1 read-only, 2 a mirror, 3 marked for deletion.
CREATE TABLE repository (
    id INTEGER NOT NULL PRIMARY KEY,
    namespace_user_id INTEGER REFERENCES "user" (id),
    name VARCHAR(255) NOT NULL,
    visibility_id INTEGER NOT NULL REFERENCES visibility (id),
    description TEXT,
    badge_token VARCHAR(255) NOT NULL,
    kind_id INTEGER NOT NULL DEFAULT 1 REFERENCES repositorykind (id),
    trust_enabled BOOLEAN NOT NULL DEFAULT false,
    state INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX repository_kind_id ON repository (kind_id);
CREATE INDEX repository_namespace_user_id ON repository (namespace_user_id);
CREATE UNIQUE INDEX repository_namespace_user_id_name ON repository (namespace_user_id, name);
CREATE INDEX repository_state ON repository (state);
CREATE INDEX repository_visibility_id ON repository (visibility_id);

CREATE TABLE deletedrepository (
    id INTEGER NOT NULL PRIMARY KEY,
    repository_id INTEGER NOT NULL REFERENCES repository (id),
    marked DATETIME NOT NULL,
    original_name VARCHAR(255) NOT NULL,
    queue_id VARCHAR(255)
);
CREATE INDEX deletedrepository_original_name ON deletedrepository (original_name);
CREATE INDEX deletedrepository_queue_id ON deletedrepository (queue_id);
CREATE UNIQUE INDEX deletedrepository_repository_id ON deletedrepository (repository_id);

CREATE TABLE star (
    id INTEGER NOT NULL PRIMARY KEY,
    user_id INTEGER NOT NULL REFERENCES "user" (id),
    repository_id INTEGER NOT NULL REFERENCES repository (id),
    created DATETIME NOT NULL
);
CREATE INDEX star_repository_id ON star (repository_id);
CREATE INDEX star_user_id ON star (user_id);
CREATE UNIQUE INDEX star_user_id_repository_id ON star (user_id, repository_id);

-- Actions of a day, for the search score.
CREATE TABLE repositoryactioncount (
    id INTEGER NOT NULL PRIMARY KEY,
    repository_id INTEGER NOT NULL REFERENCES repository (id),
    count INTEGER NOT NULL,
    date DATE NOT NULL
);
CREATE INDEX repositoryactioncount_date ON repositoryactioncount (date);
CREATE INDEX repositoryactioncount_repository_id ON repositoryactioncount (repository_id);
CREATE UNIQUE INDEX repositoryactioncount_repository_id_date ON repositoryactioncount (repository_id, date);

CREATE TABLE repositorysearchscore (
    id INTEGER NOT NULL PRIMARY KEY,
    repository_id INTEGER NOT NULL REFERENCES repository (id),
    score BIGINT NOT NULL,
    last_updated DATETIME
);
CREATE UNIQUE INDEX repositorysearchscore_repository_id ON repositorysearchscore (repository_id);
CREATE INDEX repositorysearchscore_score ON repositorysearchscore (score);

-- --- who may do what

CREATE TABLE role (
    id INTEGER NOT NULL PRIMARY KEY,
    name VARCHAR(255) NOT NULL
);
CREATE UNIQUE INDEX role_name ON role (name);
INSERT INTO role (id, name) VALUES
    (1, 'admin'), (2, 'write'), (3, 'read');

-- Of a team or of a user, never both.
CREATE TABLE repositorypermission (
    id INTEGER NOT NULL PRIMARY KEY,
    team_id INTEGER REFERENCES team (id),
    user_id INTEGER REFERENCES "user" (id),
    repository_id INTEGER NOT NULL REFERENCES repository (id),
    role_id INTEGER NOT NULL REFERENCES role (id)
);
CREATE INDEX repositorypermission_repository_id ON repositorypermission (repository_id);
CREATE INDEX repositorypermission_role_id ON repositorypermission (role_id);
CREATE INDEX repositorypermission_team_id ON repositorypermission (team_id);
CREATE UNIQUE INDEX repositorypermission_team_id_repository_id ON repositorypermission (team_id, repository_id);
CREATE INDEX repositorypermission_user_id ON repositorypermission (user_id);
CREATE UNIQUE INDEX repositorypermission_user_id_repository_id ON repositorypermission (user_id, repository_id);

-- What a new repository of an organization grants by itself.
CREATE TABLE permissionprototype (
    id INTEGER NOT NULL PRIMARY KEY,
    org_id INTEGER NOT NULL REFERENCES "user" (id),
    uuid VARCHAR(255) NOT NULL,
    activating_user_id INTEGER REFERENCES "user" (id),
    delegate_user_id INTEGER REFERENCES "user" (id),
    delegate_team_id INTEGER REFERENCES team (id),
    role_id INTEGER NOT NULL REFERENCES role (id)
);
CREATE INDEX permissionprototype_activating_user_id ON permissionprototype (activating_user_id);
CREATE INDEX permissionprototype_delegate_team_id ON permissionprototype (delegate_team_id);
CREATE INDEX permissionprototype_delegate_user_id ON permissionprototype (delegate_user_id);
CREATE INDEX permissionprototype_org_id ON permissionprototype (org_id);
CREATE INDEX permissionprototype_org_id_activating_user_id ON permissionprototype (org_id, activating_user_id);
CREATE INDEX permissionprototype_role_id ON permissionprototype (role_id);
CREATE INDEX permissionprototype_uuid ON permissionprototype (uuid);

CREATE TABLE accesstokenkind (
    id INTEGER NOT NULL PRIMARY KEY,
    name VARCHAR(255) NOT NULL
);
CREATE UNIQUE INDEX accesstokenkind_name ON accesstokenkind (name);
INSERT INTO accesstokenkind (id, name) VALUES
    (1, 'build-worker'), (2, 'pushpull-token');

-- Opens one repository.
CREATE TABLE accesstoken (
    id INTEGER NOT NULL PRIMARY KEY,
    friendly_name VARCHAR(255),
    repository_id INTEGER NOT NULL REFERENCES repository (id),
    created DATETIME NOT NULL,
    role_id INTEGER NOT NULL REFERENCES role (id),
    temporary BOOLEAN NOT NULL,
    kind_id INTEGER REFERENCES accesstokenkind (id),
    token_code VARCHAR(255) NOT NULL,
    token_name VARCHAR(255) NOT NULL
);
CREATE INDEX accesstoken_kind_id ON accesstoken (kind_id);
CREATE INDEX accesstoken_repository_id ON accesstoken (repository_id);
CREATE INDEX accesstoken_role_id ON accesstoken (role_id);
CREATE UNIQUE INDEX accesstoken_token_name ON accesstoken (token_name);

-- --- who is told

CREATE TABLE externalnotificationevent (
    id INTEGER NOT NULL PRIMARY KEY,
    name VARCHAR(255) NOT NULL
);
CREATE UNIQUE INDEX externalnotificationevent_name ON externalnotificationevent (name);
INSERT INTO externalnotificationevent (id, name) VALUES
    (1, 'build_failure'), (2, 'build_queued'), (3, 'build_start'), (4, 'build_success'),
    (5, 'repo_push'), (6, 'vulnerability_found'), (7, 'build_cancelled'),
    (8, 'repo_mirror_sync_started'), (9, 'repo_mirror_sync_success'),
    (10, 'repo_mirror_sync_failed'), (11, 'repo_image_expiry'), (12, 'quota_warning'),
    (13, 'quota_error');

CREATE TABLE externalnotificationmethod (
    id INTEGER NOT NULL PRIMARY KEY,
    name VARCHAR(255) NOT NULL
);
CREATE UNIQUE INDEX externalnotificationmethod_name ON externalnotificationmethod (name);
INSERT INTO externalnotificationmethod (id, name) VALUES
    (1, 'email'), (2, 'flowdock'), (3, 'hipchat'), (4, 'quay_notification'), (5, 'slack'),
    (6, 'webhook');

CREATE TABLE repositorynotification (
    id INTEGER NOT NULL PRIMARY KEY,
    uuid VARCHAR(255) NOT NULL,
    repository_id INTEGER NOT NULL REFERENCES repository (id),
    event_id INTEGER NOT NULL REFERENCES externalnotificationevent (id),
    method_id INTEGER NOT NULL REFERENCES externalnotificationmethod (id),
    title VARCHAR(255),
    config_json TEXT NOT NULL,
    event_config_json TEXT NOT NULL,
    number_of_failures INTEGER NOT NULL DEFAULT 0,
    last_ran_ms BIGINT
);
CREATE INDEX repositorynotification_event_id ON repositorynotification (event_id);
CREATE INDEX repositorynotification_last_ran_ms ON repositorynotification (last_ran_ms);
CREATE INDEX repositorynotification_method_id ON repositorynotification (method_id);
CREATE INDEX repositorynotification_repository_id ON repositorynotification (repository_id);
CREATE INDEX repositorynotification_uuid ON repositorynotification (uuid);

CREATE TABLE namespacenotification (
    id INTEGER NOT NULL PRIMARY KEY,
    uuid VARCHAR(255) NOT NULL,
    namespace_id INTEGER NOT NULL REFERENCES "user" (id),
    event_id INTEGER NOT NULL REFERENCES externalnotificationevent (id),
    method_id INTEGER NOT NULL REFERENCES externalnotificationmethod (id),
    title VARCHAR(255),
    config_json TEXT NOT NULL,
    event_config_json TEXT NOT NULL DEFAULT '{}',
    number_of_failures INTEGER NOT NULL DEFAULT 0,
    last_ran_ms BIGINT
);
CREATE INDEX namespacenotification_namespace_id ON namespacenotification (namespace_id);
CREATE INDEX namespacenotification_uuid ON namespacenotification (uuid);

CREATE TABLE repositoryauthorizedemail (
    id INTEGER NOT NULL PRIMARY KEY,
    repository_id INTEGER NOT NULL REFERENCES repository (id),
    email VARCHAR(255) NOT NULL,
    code VARCHAR(255) NOT NULL,
    confirmed BOOLEAN NOT NULL
);
CREATE UNIQUE INDEX repositoryauthorizedemail_code ON repositoryauthorizedemail (code);
CREATE UNIQUE INDEX repositoryauthorizedemail_email_repository_id ON repositoryauthorizedemail (email, repository_id);
CREATE INDEX repositoryauthorizedemail_repository_id ON repositoryauthorizedemail (repository_id);

-- --- policies

CREATE TABLE namespaceimmutabilitypolicy (
    id INTEGER NOT NULL PRIMARY KEY,
    uuid VARCHAR(36) NOT NULL,
    namespace_id INTEGER NOT NULL REFERENCES "user" (id),
    policy TEXT NOT NULL
);
CREATE INDEX namespaceimmutabilitypolicy_namespace_id ON namespaceimmutabilitypolicy (namespace_id);
CREATE UNIQUE INDEX namespaceimmutabilitypolicy_uuid ON namespaceimmutabilitypolicy (uuid);

CREATE TABLE repositoryimmutabilitypolicy (
    id INTEGER NOT NULL PRIMARY KEY,
    uuid VARCHAR(36) NOT NULL,
    repository_id INTEGER NOT NULL REFERENCES repository (id),
    namespace_id INTEGER NOT NULL REFERENCES "user" (id),
    policy TEXT NOT NULL
);
CREATE INDEX repositoryimmutabilitypolicy_namespace_id ON repositoryimmutabilitypolicy (namespace_id);
CREATE INDEX repositoryimmutabilitypolicy_repository_id ON repositoryimmutabilitypolicy (repository_id);
CREATE UNIQUE INDEX repositoryimmutabilitypolicy_uuid ON repositoryimmutabilitypolicy (uuid);

CREATE TABLE namespaceautoprunepolicy (
    id INTEGER NOT NULL PRIMARY KEY,
    uuid VARCHAR(36) NOT NULL,
    namespace_id INTEGER NOT NULL REFERENCES "user" (id),
    policy TEXT NOT NULL
);
CREATE INDEX namespaceautoprunepolicy_namespace_id ON namespaceautoprunepolicy (namespace_id);
CREATE UNIQUE INDEX namespaceautoprunepolicy_uuid ON namespaceautoprunepolicy (uuid);

CREATE TABLE repositoryautoprunepolicy (
    id INTEGER NOT NULL PRIMARY KEY,
    uuid VARCHAR(36) NOT NULL,
    repository_id INTEGER NOT NULL REFERENCES repository (id),
    namespace_id INTEGER NOT NULL REFERENCES "user" (id),
    policy TEXT NOT NULL
);
CREATE INDEX repositoryautoprunepolicy_namespace_id ON repositoryautoprunepolicy (namespace_id);
CREATE INDEX repositoryautoprunepolicy_repository_id ON repositoryautoprunepolicy (repository_id);
CREATE UNIQUE INDEX repositoryautoprunepolicy_uuid ON repositoryautoprunepolicy (uuid);

CREATE TABLE autoprunetaskstatus (
    id INTEGER NOT NULL PRIMARY KEY,
    namespace_id INTEGER NOT NULL REFERENCES "user" (id),
    last_ran_ms BIGINT,
    status TEXT
);
CREATE INDEX autoprunetaskstatus_last_ran_ms ON autoprunetaskstatus (last_ran_ms);
CREATE UNIQUE INDEX autoprunetaskstatus_namespace_id ON autoprunetaskstatus (namespace_id);

-- --- quotas

CREATE TABLE quotatype (
    id INTEGER NOT NULL PRIMARY KEY,
    name VARCHAR(255) NOT NULL
);
INSERT INTO quotatype (id, name) VALUES
    (1, 'Warning'), (2, 'Reject');

CREATE TABLE userorganizationquota (
    id INTEGER NOT NULL PRIMARY KEY,
    namespace_id INTEGER NOT NULL REFERENCES "user" (id),
    limit_bytes BIGINT NOT NULL
);
CREATE UNIQUE INDEX userorganizationquota_organization ON userorganizationquota (namespace_id);

CREATE TABLE quotalimits (
    id INTEGER NOT NULL PRIMARY KEY,
    quota_id INTEGER NOT NULL REFERENCES userorganizationquota (id),
    quota_type_id INTEGER NOT NULL REFERENCES quotatype (id),
    percent_of_limit INTEGER NOT NULL
);
CREATE INDEX quotalimits_quota_id ON quotalimits (quota_id);

CREATE TABLE quotanamespacesize (
    id INTEGER NOT NULL PRIMARY KEY,
    namespace_user_id INTEGER NOT NULL REFERENCES "user" (id),
    size_bytes BIGINT NOT NULL DEFAULT 0,
    backfill_start_ms BIGINT,
    backfill_complete BOOLEAN NOT NULL DEFAULT false
);
CREATE INDEX quotanamespacesize_backfill_start_ms ON quotanamespacesize (backfill_start_ms);
CREATE UNIQUE INDEX quotanamespacesize_namespace_user_id ON quotanamespacesize (namespace_user_id);
CREATE INDEX quotanamespacesize_size_bytes ON quotanamespacesize (size_bytes);

CREATE TABLE quotarepositorysize (
    id INTEGER NOT NULL PRIMARY KEY,
    repository_id INTEGER NOT NULL REFERENCES repository (id),
    size_bytes BIGINT NOT NULL DEFAULT 0,
    backfill_start_ms BIGINT,
    backfill_complete BOOLEAN NOT NULL DEFAULT false
);
CREATE UNIQUE INDEX quotarepositorysize_repository_id ON quotarepositorysize (repository_id);
CREATE INDEX quotarepositorysize_size_bytes ON quotarepositorysize (size_bytes);

CREATE TABLE quotaregistrysize (
    id INTEGER NOT NULL PRIMARY KEY,
    size_bytes BIGINT NOT NULL DEFAULT 0,
    running BOOLEAN NOT NULL DEFAULT false,
    queued BOOLEAN NOT NULL DEFAULT false,
    completed_ms BIGINT
);

CREATE TABLE quotanotificationstate (
    id INTEGER NOT NULL PRIMARY KEY,
    namespace_id INTEGER NOT NULL REFERENCES "user" (id),
    threshold_percent INTEGER NOT NULL,
    last_notified_at DATETIME,
    cleared BOOLEAN NOT NULL DEFAULT true
);
CREATE INDEX quotanotificationstate_namespace_id ON quotanotificationstate (namespace_id);
CREATE UNIQUE INDEX quotanotificationstate_namespace_threshold ON quotanotificationstate (namespace_id, threshold_percent);
