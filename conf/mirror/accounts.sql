-- A registry of its own, 1 of 5: who there is, and with what they log in.
--
-- Names, columns, types, indexes and lookup rows (ids too) are those that Quay's migrations up to
-- 9fa37f66a9b6 leave behind (contract §3, §4), so Quay's own programs know their way in this file.
-- What differs: primary keys are SQLite's own row numbers, references are enforced.

-- Users, organizations and robots; a namespace is a row of it.
CREATE TABLE "user" (
    id INTEGER NOT NULL PRIMARY KEY,
    uuid VARCHAR(36),
    username VARCHAR(255) NOT NULL,
    password_hash VARCHAR(255),
    email VARCHAR(255) NOT NULL,
    verified BOOLEAN NOT NULL,
    stripe_id VARCHAR(255),
    organization BOOLEAN NOT NULL,
    robot BOOLEAN NOT NULL,
    invoice_email BOOLEAN NOT NULL,
    invalid_login_attempts INTEGER NOT NULL DEFAULT 0,
    last_invalid_login DATETIME NOT NULL,
    removed_tag_expiration_s BIGINT NOT NULL DEFAULT 1209600,
    enabled BOOLEAN NOT NULL DEFAULT true,
    invoice_email_address VARCHAR(255),
    company VARCHAR(255),
    family_name VARCHAR(255),
    given_name VARCHAR(255),
    location VARCHAR(255),
    maximum_queued_builds_count INTEGER,
    creation_date DATETIME,
    last_accessed DATETIME
);
CREATE INDEX user_email_idx ON "user" (email);
CREATE UNIQUE INDEX user_email_unique_non_org ON "user" (email) WHERE (organization = false);
CREATE INDEX user_invoice_email_address ON "user" (invoice_email_address);
CREATE INDEX user_last_accessed ON "user" (last_accessed);
CREATE INDEX user_organization ON "user" (organization);
CREATE INDEX user_robot ON "user" (robot);
CREATE INDEX user_stripe_id ON "user" (stripe_id);
CREATE UNIQUE INDEX user_username ON "user" (username);
CREATE INDEX user_uuid ON "user" (uuid);

CREATE TABLE userpromptkind (
    id INTEGER NOT NULL PRIMARY KEY,
    name VARCHAR(255) NOT NULL
);
CREATE INDEX userpromptkind_name ON userpromptkind (name);
INSERT INTO userpromptkind (id, name) VALUES
    (1, 'confirm_username'), (2, 'enter_name'), (3, 'enter_company');

-- What a user has to answer at the next visit.
CREATE TABLE userprompt (
    id INTEGER NOT NULL PRIMARY KEY,
    user_id INTEGER NOT NULL REFERENCES "user" (id),
    kind_id INTEGER NOT NULL REFERENCES userpromptkind (id)
);
CREATE INDEX userprompt_kind_id ON userprompt (kind_id);
CREATE INDEX userprompt_user_id ON userprompt (user_id);
CREATE UNIQUE INDEX userprompt_user_id_kind_id ON userprompt (user_id, kind_id);

CREATE TABLE userregion (
    id INTEGER NOT NULL PRIMARY KEY,
    user_id INTEGER NOT NULL REFERENCES "user" (id),
    location_id INTEGER NOT NULL REFERENCES imagestoragelocation (id)
);
CREATE INDEX userregion_location_id ON userregion (location_id);
CREATE INDEX userregion_user_id ON userregion (user_id);

CREATE TABLE disablereason (
    id INTEGER NOT NULL PRIMARY KEY,
    name VARCHAR(255) NOT NULL
);
CREATE UNIQUE INDEX disablereason_name ON disablereason (name);
INSERT INTO disablereason (id, name) VALUES
    (1, 'user_toggled'), (2, 'successive_build_failures'),
    (3, 'successive_build_internal_errors');

CREATE TABLE organizationcontactemail (
    id INTEGER NOT NULL PRIMARY KEY,
    organization_id INTEGER NOT NULL REFERENCES "user" (id),
    contact_email VARCHAR(255)
);
CREATE INDEX organizationcontactemail_contact_email ON organizationcontactemail (contact_email);
CREATE UNIQUE INDEX organizationcontactemail_organization_id ON organizationcontactemail (organization_id);

CREATE TABLE organizationrhskus (
    id INTEGER NOT NULL PRIMARY KEY,
    subscription_id INTEGER NOT NULL,
    org_id INTEGER NOT NULL REFERENCES "user" (id),
    user_id INTEGER NOT NULL REFERENCES "user" (id),
    quantity INTEGER
);
CREATE INDEX organizationrhskus_subscription_id ON organizationrhskus (subscription_id);
CREATE UNIQUE INDEX organizationrhskus_subscription_id_org_id ON organizationrhskus (subscription_id, org_id);
CREATE UNIQUE INDEX organizationrhskus_subscription_id_org_id_user_id ON organizationrhskus (subscription_id, org_id, user_id);

CREATE TABLE redhatsubscriptions (
    id INTEGER NOT NULL PRIMARY KEY,
    user_id INTEGER NOT NULL REFERENCES "user" (id),
    account_number INTEGER NOT NULL
);

CREATE TABLE emailconfirmation (
    id INTEGER NOT NULL PRIMARY KEY,
    code VARCHAR(255) NOT NULL,
    user_id INTEGER NOT NULL REFERENCES "user" (id),
    pw_reset BOOLEAN NOT NULL,
    new_email VARCHAR(255),
    email_confirm BOOLEAN NOT NULL,
    created DATETIME NOT NULL,
    verification_code VARCHAR(255)
);
CREATE UNIQUE INDEX emailconfirmation_code ON emailconfirmation (code);
CREATE INDEX emailconfirmation_user_id ON emailconfirmation (user_id);

-- Namespaces that wait to be removed.
CREATE TABLE deletednamespace (
    id INTEGER NOT NULL PRIMARY KEY,
    namespace_id INTEGER NOT NULL REFERENCES "user" (id),
    marked DATETIME NOT NULL,
    original_username VARCHAR(255) NOT NULL,
    original_email VARCHAR(255) NOT NULL,
    queue_id VARCHAR(255)
);
CREATE UNIQUE INDEX deletednamespace_namespace_id ON deletednamespace (namespace_id);
CREATE INDEX deletednamespace_original_email ON deletednamespace (original_email);
CREATE INDEX deletednamespace_original_username ON deletednamespace (original_username);
CREATE INDEX deletednamespace_queue_id ON deletednamespace (queue_id);

-- --- teams

-- What membership grants in the whole organization.
CREATE TABLE teamrole (
    id INTEGER NOT NULL PRIMARY KEY,
    name VARCHAR(255) NOT NULL
);
CREATE INDEX teamrole_name ON teamrole (name);
INSERT INTO teamrole (id, name) VALUES
    (1, 'admin'), (2, 'creator'), (3, 'member');

CREATE TABLE team (
    id INTEGER NOT NULL PRIMARY KEY,
    name VARCHAR(255) NOT NULL,
    organization_id INTEGER NOT NULL REFERENCES "user" (id),
    role_id INTEGER NOT NULL REFERENCES teamrole (id),
    description TEXT NOT NULL
);
CREATE INDEX team_name ON team (name);
CREATE UNIQUE INDEX team_name_organization_id ON team (name, organization_id);
CREATE INDEX team_organization_id ON team (organization_id);
CREATE INDEX team_role_id ON team (role_id);

CREATE TABLE teammember (
    id INTEGER NOT NULL PRIMARY KEY,
    user_id INTEGER NOT NULL REFERENCES "user" (id),
    team_id INTEGER NOT NULL REFERENCES team (id)
);
CREATE INDEX teammember_team_id ON teammember (team_id);
CREATE INDEX teammember_user_id ON teammember (user_id);
CREATE UNIQUE INDEX teammember_user_id_team_id ON teammember (user_id, team_id);

CREATE TABLE teammemberinvite (
    id INTEGER NOT NULL PRIMARY KEY,
    user_id INTEGER REFERENCES "user" (id),
    email VARCHAR(255),
    team_id INTEGER NOT NULL REFERENCES team (id),
    inviter_id INTEGER NOT NULL REFERENCES "user" (id),
    invite_token VARCHAR(255) NOT NULL
);
CREATE INDEX teammemberinvite_inviter_id ON teammemberinvite (inviter_id);
CREATE INDEX teammemberinvite_team_id ON teammemberinvite (team_id);
CREATE INDEX teammemberinvite_user_id ON teammemberinvite (user_id);

-- Where an account may come from.
CREATE TABLE loginservice (
    id INTEGER NOT NULL PRIMARY KEY,
    name VARCHAR(255) NOT NULL
);
CREATE UNIQUE INDEX loginservice_name ON loginservice (name);
INSERT INTO loginservice (id, name) VALUES
    (1, 'github'), (2, 'quayrobot'), (3, 'ldap'), (4, 'google'), (5, 'keystone'), (6, 'dex'),
    (7, 'jwtauthn'), (8, 'oidc');

CREATE TABLE teamsync (
    id INTEGER NOT NULL PRIMARY KEY,
    team_id INTEGER NOT NULL REFERENCES team (id),
    transaction_id VARCHAR(255) NOT NULL,
    last_updated DATETIME,
    service_id INTEGER NOT NULL REFERENCES loginservice (id),
    config TEXT NOT NULL
);
CREATE INDEX teamsync_last_updated ON teamsync (last_updated);
CREATE INDEX teamsync_service_id ON teamsync (service_id);
CREATE UNIQUE INDEX teamsync_team_id ON teamsync (team_id);

-- Whom another service answers for; robots too.
CREATE TABLE federatedlogin (
    id INTEGER NOT NULL PRIMARY KEY,
    user_id INTEGER NOT NULL REFERENCES "user" (id),
    service_id INTEGER NOT NULL REFERENCES loginservice (id),
    service_ident VARCHAR(255) NOT NULL,
    metadata_json TEXT NOT NULL
);
CREATE INDEX federatedlogin_service_id ON federatedlogin (service_id);
CREATE UNIQUE INDEX federatedlogin_service_id_service_ident ON federatedlogin (service_id, service_ident);
CREATE UNIQUE INDEX federatedlogin_service_id_user_id ON federatedlogin (service_id, user_id);
CREATE INDEX federatedlogin_user_id ON federatedlogin (user_id);

-- --- passwords of programs

-- Encrypted with DATABASE_SECRET_KEY.
CREATE TABLE robotaccounttoken (
    id INTEGER NOT NULL PRIMARY KEY,
    robot_account_id INTEGER NOT NULL REFERENCES "user" (id),
    token VARCHAR(255) NOT NULL,
    fully_migrated BOOLEAN NOT NULL DEFAULT false
);
CREATE UNIQUE INDEX robotaccounttoken_robot_account_id ON robotaccounttoken (robot_account_id);

CREATE TABLE robotaccountmetadata (
    id INTEGER NOT NULL PRIMARY KEY,
    robot_account_id INTEGER NOT NULL REFERENCES "user" (id),
    description VARCHAR(255) NOT NULL,
    unstructured_json TEXT NOT NULL
);
CREATE UNIQUE INDEX robotaccountmetadata_robot_account_id ON robotaccountmetadata (robot_account_id);

CREATE TABLE appspecificauthtoken (
    id INTEGER NOT NULL PRIMARY KEY,
    user_id INTEGER NOT NULL REFERENCES "user" (id),
    uuid VARCHAR(36) NOT NULL,
    title VARCHAR(255) NOT NULL,
    created DATETIME NOT NULL,
    expiration DATETIME,
    last_accessed DATETIME,
    token_name VARCHAR(255) NOT NULL,
    token_secret VARCHAR(255) NOT NULL
);
CREATE UNIQUE INDEX appspecificauthtoken_token_name ON appspecificauthtoken (token_name);
CREATE INDEX appspecificauthtoken_user_id ON appspecificauthtoken (user_id);
CREATE INDEX appspecificauthtoken_user_id_expiration ON appspecificauthtoken (user_id, expiration);
CREATE INDEX appspecificauthtoken_uuid ON appspecificauthtoken (uuid);

CREATE TABLE oauthapplication (
    id INTEGER NOT NULL PRIMARY KEY,
    client_id VARCHAR(255) NOT NULL,
    redirect_uri VARCHAR(255) NOT NULL,
    application_uri VARCHAR(255) NOT NULL,
    organization_id INTEGER NOT NULL REFERENCES "user" (id),
    name VARCHAR(255) NOT NULL,
    description TEXT NOT NULL,
    gravatar_email VARCHAR(255),
    secure_client_secret VARCHAR(255),
    fully_migrated BOOLEAN NOT NULL DEFAULT false
);
CREATE INDEX oauthapplication_client_id ON oauthapplication (client_id);
CREATE INDEX oauthapplication_organization_id ON oauthapplication (organization_id);

CREATE TABLE oauthaccesstoken (
    id INTEGER NOT NULL PRIMARY KEY,
    uuid VARCHAR(255) NOT NULL,
    application_id INTEGER NOT NULL REFERENCES oauthapplication (id),
    authorized_user_id INTEGER NOT NULL REFERENCES "user" (id),
    scope VARCHAR(255) NOT NULL,
    token_type VARCHAR(255) NOT NULL,
    expires_at DATETIME NOT NULL,
    data TEXT NOT NULL,
    token_code VARCHAR(255) NOT NULL,
    token_name VARCHAR(255) NOT NULL,
    last_accessed DATETIME,
    created DATETIME,
    display_name VARCHAR(255)
);
CREATE INDEX oauthaccesstoken_application_id ON oauthaccesstoken (application_id);
CREATE INDEX oauthaccesstoken_application_id_last_accessed ON oauthaccesstoken (application_id, last_accessed);
CREATE INDEX oauthaccesstoken_authorized_user_id ON oauthaccesstoken (authorized_user_id);
CREATE UNIQUE INDEX oauthaccesstoken_token_name ON oauthaccesstoken (token_name);
CREATE INDEX oauthaccesstoken_uuid ON oauthaccesstoken (uuid);

CREATE TABLE oauthauthorizationcode (
    id INTEGER NOT NULL PRIMARY KEY,
    application_id INTEGER NOT NULL REFERENCES oauthapplication (id),
    scope VARCHAR(255) NOT NULL,
    data TEXT NOT NULL,
    code_credential VARCHAR(255) NOT NULL,
    code_name VARCHAR(255) NOT NULL
);
CREATE INDEX oauthauthorizationcode_application_id ON oauthauthorizationcode (application_id);
CREATE UNIQUE INDEX oauthauthorizationcode_code_name ON oauthauthorizationcode (code_name);

CREATE TABLE oauthassignedtoken (
    id INTEGER NOT NULL PRIMARY KEY,
    uuid VARCHAR(255) NOT NULL,
    assigned_user_id INTEGER NOT NULL REFERENCES "user" (id),
    application_id INTEGER NOT NULL REFERENCES oauthapplication (id),
    redirect_uri VARCHAR(255),
    scope VARCHAR(255) NOT NULL,
    response_type VARCHAR(255)
);
CREATE INDEX oauthassignedtoken_application_id ON oauthassignedtoken (application_id);
CREATE INDEX oauthassignedtoken_assigned_user ON oauthassignedtoken (assigned_user_id);
CREATE UNIQUE INDEX oauthassignedtoken_uuid ON oauthassignedtoken (uuid);

-- --- keys that tokens are signed with

CREATE TABLE servicekeyapproval (
    id INTEGER NOT NULL PRIMARY KEY,
    approver_id INTEGER,
    approval_type VARCHAR(255) NOT NULL,
    approved_date DATETIME NOT NULL,
    notes TEXT NOT NULL
);
CREATE INDEX servicekeyapproval_approval_type ON servicekeyapproval (approval_type);
CREATE INDEX servicekeyapproval_approver_id ON servicekeyapproval (approver_id);

CREATE TABLE servicekey (
    id INTEGER NOT NULL PRIMARY KEY,
    name VARCHAR(255) NOT NULL,
    kid VARCHAR(255) NOT NULL,
    service VARCHAR(255) NOT NULL,
    jwk TEXT NOT NULL,
    metadata TEXT NOT NULL,
    created_date DATETIME NOT NULL,
    expiration_date DATETIME,
    rotation_duration INTEGER,
    approval_id INTEGER REFERENCES servicekeyapproval (id)
);
CREATE INDEX servicekey_approval_id ON servicekey (approval_id);
CREATE UNIQUE INDEX servicekey_kid ON servicekey (kid);
CREATE INDEX servicekey_service ON servicekey (service);
