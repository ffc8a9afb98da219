-- A registry of its own, 5 of 5: the action log, work to be done, and the rest.

CREATE TABLE logentrykind (
    id INTEGER NOT NULL PRIMARY KEY,
    name VARCHAR(255) NOT NULL
);
CREATE UNIQUE INDEX logentrykind_name ON logentrykind (name);
INSERT INTO logentrykind (id, name) VALUES
    (1, 'account_change_cc'), (2, 'account_change_password'), (3, 'account_change_plan'),
    (4, 'account_convert'), (5, 'add_repo_accesstoken'), (6, 'add_repo_notification'),
    (7, 'add_repo_permission'), (8, 'add_repo_webhook'), (9, 'build_dockerfile'),
    (10, 'change_repo_permission'), (11, 'change_repo_visibility'), (12, 'create_application'),
    (13, 'create_prototype_permission'), (14, 'create_repo'), (15, 'create_robot'),
    (16, 'create_tag'), (17, 'delete_application'), (18, 'delete_prototype_permission'),
    (19, 'delete_repo'), (20, 'delete_repo_accesstoken'), (21, 'delete_repo_notification'),
    (22, 'delete_repo_permission'), (23, 'delete_repo_trigger'), (24, 'delete_repo_webhook'),
    (25, 'delete_robot'), (26, 'delete_tag'), (27, 'manifest_label_add'),
    (28, 'manifest_label_delete'), (29, 'modify_prototype_permission'), (30, 'move_tag'),
    (31, 'org_add_team_member'), (32, 'org_create_team'), (33, 'org_delete_team'),
    (34, 'org_delete_team_member_invite'), (35, 'org_invite_team_member'),
    (36, 'org_remove_team_member'), (37, 'org_set_team_description'), (38, 'org_set_team_role'),
    (39, 'org_team_member_invite_accepted'), (40, 'org_team_member_invite_declined'),
    (41, 'pull_repo'), (42, 'push_repo'), (43, 'regenerate_robot_token'), (44, 'repo_verb'),
    (45, 'reset_application_client_secret'), (46, 'revert_tag'), (47, 'service_key_approve'),
    (48, 'service_key_create'), (49, 'service_key_delete'), (50, 'service_key_extend'),
    (51, 'service_key_modify'), (52, 'service_key_rotate'), (53, 'setup_repo_trigger'),
    (54, 'set_repo_description'), (55, 'take_ownership'), (56, 'update_application'),
    (57, 'change_repo_trust'), (58, 'reset_repo_notification'), (59, 'change_tag_expiration'),
    (60, 'create_app_specific_token'), (61, 'revoke_app_specific_token'),
    (62, 'toggle_repo_trigger'), (63, 'repo_mirror_enabled'), (64, 'repo_mirror_disabled'),
    (65, 'repo_mirror_config_changed'), (66, 'repo_mirror_sync_started'),
    (67, 'repo_mirror_sync_failed'), (68, 'repo_mirror_sync_success'),
    (69, 'repo_mirror_sync_now_requested'), (70, 'repo_mirror_sync_tag_success'),
    (71, 'repo_mirror_sync_tag_failed'), (72, 'repo_mirror_sync_test_success'),
    (73, 'repo_mirror_sync_test_failed'), (74, 'repo_mirror_sync_test_started'),
    (75, 'change_repo_state'), (76, 'create_proxy_cache_config'),
    (77, 'delete_proxy_cache_config'), (78, 'start_build_trigger'), (79, 'cancel_build'),
    (80, 'org_create'), (81, 'org_delete'), (82, 'org_change_email'),
    (83, 'org_change_invoicing'), (84, 'org_change_tag_expiration'), (85, 'org_change_name'),
    (86, 'user_create'), (87, 'user_delete'), (88, 'user_disable'), (89, 'user_enable'),
    (90, 'user_change_email'), (91, 'user_change_password'), (92, 'user_change_name'),
    (93, 'user_change_invoicing'), (94, 'user_change_tag_expiration'),
    (95, 'user_change_metadata'), (96, 'user_generate_client_key'), (97, 'login_success'),
    (98, 'logout_success'), (99, 'permanently_delete_tag'), (100, 'autoprune_tag_delete'),
    (101, 'create_namespace_autoprune_policy'), (102, 'update_namespace_autoprune_policy'),
    (103, 'delete_namespace_autoprune_policy'), (104, 'login_failure'),
    (105, 'push_repo_failed'), (106, 'pull_repo_failed'), (107, 'delete_tag_failed'),
    (108, 'create_repository_autoprune_policy'), (109, 'update_repository_autoprune_policy'),
    (110, 'delete_repository_autoprune_policy'), (111, 'enable_team_sync'),
    (112, 'disable_team_sync'), (113, 'oauth_token_assigned'), (114, 'oauth_token_revoked'),
    (115, 'change_tag_immutability'), (116, 'create_robot_federation'),
    (117, 'delete_robot_federation'), (118, 'federated_robot_token_exchange'),
    (119, 'export_logs_success'), (120, 'export_logs_failure'), (121, 'org_create_quota'),
    (122, 'org_change_quota'), (123, 'org_delete_quota'), (124, 'org_create_quota_limit'),
    (125, 'org_change_quota_limit'), (126, 'org_delete_quota_limit'),
    (127, 'org_mirror_enabled'), (128, 'org_mirror_disabled'),
    (129, 'org_mirror_config_changed'), (130, 'org_mirror_sync_started'),
    (131, 'org_mirror_sync_failed'), (132, 'org_mirror_sync_success'),
    (133, 'org_mirror_sync_now_requested'), (134, 'org_mirror_sync_cancelled'),
    (135, 'org_mirror_repo_created'), (136, 'create_immutability_policy'),
    (137, 'update_immutability_policy'), (138, 'delete_immutability_policy'),
    (139, 'org_mirror_repo_creation_failed'), (140, 'tag_made_immutable_by_policy'),
    (141, 'tags_made_immutable_by_policy'), (142, 'create_oauth_api_token'),
    (143, 'revoke_oauth_api_token'), (144, 'create_namespace_notification'),
    (145, 'delete_namespace_notification'), (146, 'reset_namespace_notification');

-- Without references, as in Quay: rows outlive what they are about.
CREATE TABLE logentry3 (
    id INTEGER NOT NULL PRIMARY KEY,
    kind_id INTEGER NOT NULL,
    account_id INTEGER NOT NULL,
    performer_id INTEGER,
    repository_id INTEGER,
    datetime DATETIME NOT NULL,
    ip VARCHAR(255),
    metadata_json TEXT NOT NULL
);
CREATE INDEX logentry3_account_id_datetime ON logentry3 (account_id, datetime);
CREATE INDEX logentry3_datetime ON logentry3 (datetime);
CREATE INDEX logentry3_performer_id_datetime ON logentry3 (performer_id, datetime);
CREATE INDEX logentry3_repository_id_datetime_kind_id ON logentry3 (repository_id, datetime, kind_id);

CREATE TABLE logentry (
    id INTEGER NOT NULL PRIMARY KEY,
    kind_id INTEGER NOT NULL REFERENCES logentrykind (id),
    account_id INTEGER NOT NULL,
    performer_id INTEGER,
    repository_id INTEGER,
    datetime DATETIME NOT NULL,
    ip VARCHAR(255),
    metadata_json TEXT NOT NULL
);
CREATE INDEX logentry_account_id ON logentry (account_id);
CREATE INDEX logentry_account_id_datetime ON logentry (account_id, datetime);
CREATE INDEX logentry_datetime ON logentry (datetime);
CREATE INDEX logentry_kind_id ON logentry (kind_id);
CREATE INDEX logentry_performer_id ON logentry (performer_id);
CREATE INDEX logentry_performer_id_datetime ON logentry (performer_id, datetime);
CREATE INDEX logentry_repository_id ON logentry (repository_id);
CREATE INDEX logentry_repository_id_datetime ON logentry (repository_id, datetime);
CREATE INDEX logentry_repository_id_datetime_kind_id ON logentry (repository_id, datetime, kind_id);

CREATE TABLE logentry2 (
    id INTEGER NOT NULL PRIMARY KEY,
    kind_id INTEGER NOT NULL REFERENCES logentrykind (id),
    account_id INTEGER NOT NULL,
    performer_id INTEGER,
    repository_id INTEGER,
    datetime DATETIME NOT NULL,
    ip VARCHAR(255),
    metadata_json TEXT NOT NULL
);
CREATE INDEX logentry2_account_id ON logentry2 (account_id);
CREATE INDEX logentry2_account_id_datetime ON logentry2 (account_id, datetime);
CREATE INDEX logentry2_datetime ON logentry2 (datetime);
CREATE INDEX logentry2_kind_id ON logentry2 (kind_id);
CREATE INDEX logentry2_performer_id ON logentry2 (performer_id);
CREATE INDEX logentry2_performer_id_datetime ON logentry2 (performer_id, datetime);
CREATE INDEX logentry2_repository_id ON logentry2 (repository_id);
CREATE INDEX logentry2_repository_id_datetime ON logentry2 (repository_id, datetime);
CREATE INDEX logentry2_repository_id_datetime_kind_id ON logentry2 (repository_id, datetime, kind_id);

-- --- work, and news of it

-- Claimed by compare-and-set on state_id.
CREATE TABLE queueitem (
    id INTEGER NOT NULL PRIMARY KEY,
    queue_name VARCHAR(1024) NOT NULL,
    body TEXT NOT NULL,
    available_after DATETIME NOT NULL,
    available BOOLEAN NOT NULL,
    processing_expires DATETIME,
    retries_remaining INTEGER NOT NULL,
    state_id VARCHAR(255) NOT NULL DEFAULT ''
);
CREATE INDEX queueitem_pe_aafter_qname_rremaining_available ON queueitem (processing_expires, available_after, queue_name, retries_remaining, available);
CREATE INDEX queueitem_pexpires_aafter_rremaining_available ON queueitem (processing_expires, available_after, retries_remaining, available);
CREATE INDEX queueitem_processing_expires_available ON queueitem (processing_expires, available);
CREATE INDEX queueitem_processing_expires_queue_name_available ON queueitem (processing_expires, queue_name, available);
CREATE INDEX queueitem_queue_name ON queueitem (queue_name);
CREATE UNIQUE INDEX queueitem_state_id ON queueitem (state_id);

CREATE TABLE notificationkind (
    id INTEGER NOT NULL PRIMARY KEY,
    name VARCHAR(255) NOT NULL
);
CREATE UNIQUE INDEX notificationkind_name ON notificationkind (name);
INSERT INTO notificationkind (id, name) VALUES
    (1, 'build_failure'), (2, 'build_queued'), (3, 'build_start'), (4, 'build_success'),
    (5, 'expiring_license'), (6, 'maintenance'), (7, 'org_team_invite'),
    (8, 'over_private_usage'), (9, 'password_required'), (10, 'repo_push'),
    (11, 'service_key_submitted'), (12, 'vulnerability_found'), (13, 'build_cancelled'),
    (14, 'repo_mirror_sync_started'), (15, 'repo_mirror_sync_success'),
    (16, 'repo_mirror_sync_failed'), (17, 'quota_warning'), (18, 'quota_error'),
    (19, 'assigned_authorization');

CREATE TABLE notification (
    id INTEGER NOT NULL PRIMARY KEY,
    uuid VARCHAR(255) NOT NULL,
    kind_id INTEGER NOT NULL REFERENCES notificationkind (id),
    target_id INTEGER NOT NULL REFERENCES "user" (id),
    metadata_json TEXT NOT NULL,
    created DATETIME NOT NULL,
    dismissed BOOLEAN NOT NULL,
    lookup_path VARCHAR(255)
);
CREATE INDEX notification_created ON notification (created);
CREATE INDEX notification_kind_id ON notification (kind_id);
CREATE INDEX notification_lookup_path ON notification (lookup_path);
CREATE INDEX notification_target_id ON notification (target_id);
CREATE INDEX notification_uuid ON notification (uuid);

CREATE TABLE messages (
    id INTEGER NOT NULL PRIMARY KEY,
    content TEXT NOT NULL,
    uuid VARCHAR(36) NOT NULL DEFAULT '',
    media_type_id INTEGER NOT NULL DEFAULT 1 REFERENCES mediatype (id),
    severity VARCHAR(255) NOT NULL DEFAULT 'info'
);
CREATE INDEX messages_media_type_id ON messages (media_type_id);
CREATE INDEX messages_severity ON messages (severity);
CREATE INDEX messages_uuid ON messages (uuid);

-- --- about this database

-- How far Quay's migrations have come.
CREATE TABLE alembic_version (
    version_num VARCHAR(32) NOT NULL
);
INSERT INTO alembic_version (version_num) VALUES
    ('9fa37f66a9b6');

CREATE TABLE quayservice (
    id INTEGER NOT NULL PRIMARY KEY,
    name VARCHAR(255) NOT NULL
);
CREATE UNIQUE INDEX quayservice_name ON quayservice (name);

CREATE TABLE quayregion (
    id INTEGER NOT NULL PRIMARY KEY,
    name VARCHAR(255) NOT NULL
);
CREATE UNIQUE INDEX quayregion_name ON quayregion (name);

CREATE TABLE quayrelease (
    id INTEGER NOT NULL PRIMARY KEY,
    service_id INTEGER NOT NULL REFERENCES quayservice (id),
    version VARCHAR(255) NOT NULL,
    region_id INTEGER NOT NULL REFERENCES quayregion (id),
    reverted BOOLEAN NOT NULL,
    created DATETIME NOT NULL
);
CREATE INDEX quayrelease_created ON quayrelease (created);
CREATE INDEX quayrelease_region_id ON quayrelease (region_id);
CREATE INDEX quayrelease_service_id ON quayrelease (service_id);
CREATE INDEX quayrelease_service_id_region_id_created ON quayrelease (service_id, region_id, created);
CREATE UNIQUE INDEX quayrelease_service_id_version_region_id ON quayrelease (service_id, version, region_id);
