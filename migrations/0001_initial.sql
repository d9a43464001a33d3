-- The whole tenant model. What cannot be added later without rewriting every row is here from the start:
-- composite tenant keys, roles, forced row-level security, ciphertext columns.

-- Roles are shared by all databases of a server, so another database may have made them already, or an administrator
-- for an owner who may not.
--   icmp_app     what the application becomes in every transaction; owns nothing, is subject to every policy
--   icmp_lookup  owns the few functions that must look before the tenant is known; the application cannot become it
DO $$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['icmp_app', 'icmp_lookup'] LOOP
        BEGIN
            IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = role_name) THEN
                EXECUTE format('CREATE ROLE %I NOLOGIN NOSUPERUSER NOBYPASSRLS', role_name);
            END IF;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;
        END;
        IF NOT pg_has_role(current_user, role_name, 'MEMBER')
           OR current_setting('server_version_num')::int >= 160000 AND NOT pg_has_role(current_user, role_name, 'SET') THEN
            IF current_setting('server_version_num')::int >= 160000 THEN
                EXECUTE format('GRANT %I TO CURRENT_USER WITH SET TRUE, INHERIT FALSE', role_name);
            ELSE
                EXECUTE format('GRANT %I TO CURRENT_USER', role_name);
            END IF;
        END IF;
    END LOOP;
END $$;

REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO icmp_app;
GRANT USAGE, CREATE ON SCHEMA public TO icmp_lookup;

-- The tenant of the transaction. After COMMIT a custom setting reads '' and not NULL, hence NULLIF.
CREATE FUNCTION app_business() RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT NULLIF(current_setting('icmp.business_id', true), '')::uuid $$;

-- Platform tables: no tenant.

CREATE TABLE platform_secrets (
    secret_name text PRIMARY KEY,
    wrapped bytea NOT NULL,
    wrapping_key_id text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE users (
    user_id uuid PRIMARY KEY,
    login_email_hash bytea CONSTRAINT users_login_email_key UNIQUE,
    login_email bytea,          -- ciphertext under the platform key
    password_hash text,         -- argon2id
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE global_templates (
    template_id text NOT NULL,
    version integer NOT NULL CHECK (version > 0),
    kind text NOT NULL CHECK (kind IN ('stage_selection', 'data_extraction', 'response_generation')),
    text text NOT NULL,
    input_variables jsonb NOT NULL DEFAULT '[]',
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT global_templates_version_key PRIMARY KEY (template_id, version)
);

-- Tenant tables.

CREATE TABLE businesses (
    business_id uuid PRIMARY KEY,
    owner_id uuid NOT NULL REFERENCES users (user_id),
    business_name text NOT NULL CONSTRAINT businesses_business_name_key UNIQUE,
    business_description text,
    address text,
    phone_number text,
    website text,
    settings jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX businesses_newest ON businesses (created_at DESC, business_id DESC);

CREATE TABLE data_keys (
    business_id uuid NOT NULL REFERENCES businesses ON DELETE CASCADE,
    data_key_id uuid NOT NULL,
    wrapped bytea NOT NULL,
    wrapping_key_id text NOT NULL,
    is_active boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (business_id, data_key_id)
);
CREATE UNIQUE INDEX data_keys_one_active ON data_keys (business_id) WHERE is_active;

CREATE TABLE memberships (
    business_id uuid NOT NULL REFERENCES businesses ON DELETE CASCADE,
    user_id uuid NOT NULL REFERENCES users (user_id),
    role text NOT NULL CHECK (role IN ('owner', 'admin', 'operator', 'viewer', 'customer')),
    contact bytea,              -- ciphertext of {"name", "email", "phone_number", "profile"}
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (business_id, user_id)
);
CREATE INDEX memberships_newest ON memberships (business_id, created_at DESC, user_id DESC);
CREATE INDEX memberships_user ON memberships (user_id);

CREATE TABLE api_keys (
    business_id uuid NOT NULL REFERENCES businesses ON DELETE CASCADE,
    key_id uuid NOT NULL,
    name text NOT NULL,
    key_hash bytea NOT NULL CONSTRAINT api_keys_key_hash_key UNIQUE,
    last4 text NOT NULL,
    expires_at timestamptz,
    revoked_at timestamptz,
    last_used_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (business_id, key_id)
);
CREATE INDEX api_keys_newest ON api_keys (business_id, created_at DESC, key_id DESC);

CREATE TABLE sessions (
    business_id uuid NOT NULL REFERENCES businesses ON DELETE CASCADE,
    session_key_id uuid NOT NULL,
    token_hash bytea NOT NULL CONSTRAINT sessions_token_hash_key UNIQUE,
    key_id uuid NOT NULL,
    last_seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (business_id, session_key_id),
    FOREIGN KEY (business_id, key_id) REFERENCES api_keys ON DELETE CASCADE
);
CREATE INDEX sessions_key ON sessions (business_id, key_id);
CREATE INDEX sessions_expired ON sessions (expires_at);

CREATE TABLE agents (
    business_id uuid NOT NULL REFERENCES businesses ON DELETE CASCADE,
    agent_id uuid NOT NULL,
    agent_name text NOT NULL,
    agent_description text NOT NULL DEFAULT '',
    agent_type text NOT NULL DEFAULT 'ai' CHECK (agent_type IN ('ai', 'human')),
    instructions text NOT NULL DEFAULT '',
    model_settings jsonb NOT NULL DEFAULT '{}',
    is_default boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (business_id, agent_id),
    CONSTRAINT agents_agent_name_key UNIQUE (business_id, agent_name)
);
CREATE UNIQUE INDEX agents_one_default ON agents (business_id) WHERE is_default;

CREATE TABLE products (
    business_id uuid NOT NULL REFERENCES businesses ON DELETE CASCADE,
    product_id uuid NOT NULL,
    name text NOT NULL,
    description text NOT NULL DEFAULT '',
    price numeric(18, 4) CHECK (price >= 0),
    currency text,
    sku text,
    attributes jsonb NOT NULL DEFAULT '{}',
    active boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (business_id, product_id),
    CONSTRAINT products_sku_key UNIQUE (business_id, sku)
);

CREATE TABLE services (
    business_id uuid NOT NULL REFERENCES businesses ON DELETE CASCADE,
    service_id uuid NOT NULL,
    name text NOT NULL,
    description text NOT NULL DEFAULT '',
    price numeric(18, 4) CHECK (price >= 0),
    currency text,
    sku text,
    duration_minutes integer CHECK (duration_minutes > 0),
    attributes jsonb NOT NULL DEFAULT '{}',
    active boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (business_id, service_id),
    CONSTRAINT services_sku_key UNIQUE (business_id, sku)
);

CREATE TABLE templates (
    business_id uuid NOT NULL REFERENCES businesses ON DELETE CASCADE,
    template_id text NOT NULL,
    version integer NOT NULL CHECK (version > 0),
    kind text NOT NULL CHECK (kind IN ('stage_selection', 'data_extraction', 'response_generation')),
    text text NOT NULL,
    input_variables jsonb NOT NULL DEFAULT '[]',
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT templates_version_key PRIMARY KEY (business_id, template_id, version)
);

CREATE TABLE stages (
    business_id uuid NOT NULL REFERENCES businesses ON DELETE CASCADE,
    stage_id uuid NOT NULL,
    agent_id uuid,
    stage_name text NOT NULL,
    stage_type text NOT NULL,
    stage_description text NOT NULL,
    -- json, not jsonb: the order of a schema's properties is the order in which people wrote and models read them
    stage_selection json NOT NULL,
    data_extraction json NOT NULL,
    data_retrieval json NOT NULL,
    response_generation json NOT NULL,
    stage_selection_example_conversations text NOT NULL DEFAULT '',
    secret_headers bytea,       -- ciphertext of {"header": "value"} for api_call; never read back over the API
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (business_id, stage_id),
    CONSTRAINT stages_stage_name_key UNIQUE (business_id, stage_name),
    CONSTRAINT stages_agent_fkey FOREIGN KEY (business_id, agent_id) REFERENCES agents ON DELETE SET NULL (agent_id)
);
CREATE INDEX stages_newest ON stages (business_id, created_at DESC, stage_id DESC);
CREATE INDEX stages_agent ON stages (business_id, agent_id);

CREATE TABLE conversations (
    business_id uuid NOT NULL REFERENCES businesses ON DELETE CASCADE,
    conversation_id uuid NOT NULL,
    user_id uuid NOT NULL,
    agent_id uuid,
    stage_id uuid,
    session_id text NOT NULL,
    status text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'paused', 'completed')),
    data bytea,                 -- ciphertext of the collected values, one flat object
    missing_fields jsonb NOT NULL DEFAULT '[]',
    turn_count bigint NOT NULL DEFAULT 0,
    start_time timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_updated timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (business_id, conversation_id),
    FOREIGN KEY (business_id, user_id) REFERENCES memberships ON DELETE CASCADE,
    FOREIGN KEY (business_id, agent_id) REFERENCES agents ON DELETE SET NULL (agent_id),
    FOREIGN KEY (business_id, stage_id) REFERENCES stages ON DELETE SET NULL (stage_id)
);
CREATE UNIQUE INDEX conversations_one_open ON conversations (business_id, user_id, session_id)
    WHERE status IN ('active', 'paused');
CREATE INDEX conversations_newest ON conversations (business_id, start_time DESC, conversation_id DESC);
CREATE INDEX conversations_of_user ON conversations (business_id, user_id, last_updated DESC);
CREATE INDEX conversations_of_stage ON conversations (business_id, stage_id);
CREATE INDEX conversations_of_agent ON conversations (business_id, agent_id);

CREATE TABLE turns (
    business_id uuid NOT NULL,
    turn_id uuid NOT NULL,
    conversation_id uuid NOT NULL,
    number bigint NOT NULL,
    state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'done', 'failed')),
    error_code text,
    stage_id uuid,
    stage_name text,
    agent_id uuid,
    confidence double precision,
    model text,
    degraded boolean NOT NULL DEFAULT false,
    prompt_tokens integer NOT NULL DEFAULT 0,
    completion_tokens integer NOT NULL DEFAULT 0,
    cost_usd numeric(18, 8),
    timings_ms jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz,
    PRIMARY KEY (business_id, turn_id),
    CONSTRAINT turns_number_key UNIQUE (business_id, conversation_id, number),
    FOREIGN KEY (business_id, conversation_id) REFERENCES conversations ON DELETE CASCADE
);

CREATE TABLE messages (
    business_id uuid NOT NULL,
    message_id uuid NOT NULL,
    conversation_id uuid NOT NULL,
    turn_id uuid,
    sequence bigint GENERATED ALWAYS AS IDENTITY,
    sender_type text NOT NULL CHECK (sender_type IN ('user', 'ai', 'operator')),
    message_content bytea NOT NULL,     -- ciphertext
    metadata bytea,                     -- ciphertext of what the caller sent along
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (business_id, message_id),
    FOREIGN KEY (business_id, conversation_id) REFERENCES conversations ON DELETE CASCADE,
    FOREIGN KEY (business_id, turn_id) REFERENCES turns ON DELETE CASCADE
);
CREATE INDEX messages_of_conversation ON messages (business_id, conversation_id, sequence DESC);
CREATE UNIQUE INDEX messages_one_reply ON messages (business_id, turn_id) WHERE sender_type = 'ai';
CREATE INDEX messages_of_turn ON messages (business_id, turn_id);

CREATE TABLE turn_steps (
    business_id uuid NOT NULL,
    turn_id uuid NOT NULL,
    position integer NOT NULL,
    kind text NOT NULL CHECK (kind IN ('stage_selection', 'data_extraction', 'data_retrieval', 'response_generation')),
    outcome text NOT NULL,
    stage_name text,
    template_id text,
    template_version integer,
    model text,
    attempts integer NOT NULL,
    prompt_tokens integer NOT NULL,
    completion_tokens integer NOT NULL,
    cost_usd numeric(18, 8),
    latency_ms double precision NOT NULL,
    content bytea NOT NULL,     -- ciphertext of {"prompt", "raw_outputs", "output", "verdict"}
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (business_id, turn_id, position),
    FOREIGN KEY (business_id, turn_id) REFERENCES turns ON DELETE CASCADE
);

CREATE TABLE events (
    business_id uuid NOT NULL REFERENCES businesses ON DELETE CASCADE,
    event_id uuid NOT NULL,
    event_type text NOT NULL,
    event_timestamp timestamptz NOT NULL,
    user_id uuid,
    conversation_id uuid,
    event_data jsonb NOT NULL DEFAULT '{}',
    received_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (business_id, event_id)
);
CREATE INDEX events_newest ON events (business_id, event_timestamp DESC, event_id DESC);
CREATE INDEX events_of_type ON events (business_id, event_type, event_timestamp DESC, event_id DESC);
CREATE INDEX events_of_user ON events (business_id, user_id, event_timestamp DESC, event_id DESC) WHERE user_id IS NOT NULL;

-- Row-level security: on every table with a tenant, also for the owner of the table.
DO $$
DECLARE
    tenant_table text;
BEGIN
    FOR tenant_table IN
        SELECT c.table_name FROM information_schema.columns c
        WHERE c.table_schema = 'public' AND c.column_name = 'business_id'
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', tenant_table);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', tenant_table);
        EXECUTE format(
            'CREATE POLICY tenant ON %I USING (business_id = (SELECT app_business())) '
            'WITH CHECK (business_id = (SELECT app_business()))', tenant_table);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO icmp_app', tenant_table);
    END LOOP;
END $$;

-- A person is visible to the businesses that know them; anybody may be met for the first time.
ALTER TABLE users ENABLE ROW LEVEL SECURITY;
ALTER TABLE users FORCE ROW LEVEL SECURITY;
CREATE POLICY member ON users FOR SELECT USING (EXISTS (
    SELECT 1 FROM memberships m WHERE m.user_id = users.user_id AND m.business_id = (SELECT app_business())));
CREATE POLICY member_update ON users FOR UPDATE USING (EXISTS (
    SELECT 1 FROM memberships m WHERE m.user_id = users.user_id AND m.business_id = (SELECT app_business())));
CREATE POLICY newcomer ON users FOR INSERT WITH CHECK (true);
GRANT SELECT, INSERT ON users TO icmp_app;
GRANT UPDATE (login_email_hash, login_email, password_hash) ON users TO icmp_app;
GRANT SELECT, INSERT, DELETE ON global_templates TO icmp_app;
GRANT SELECT, INSERT ON platform_secrets TO icmp_app;
GRANT SELECT ON schema_migrations TO icmp_app;

-- What must be known before the tenant is: who owns this key or session, which businesses exist.
-- Column grants and read-only policies keep these functions from reading anything else.
GRANT SELECT (business_id, key_id, key_hash, expires_at, revoked_at, last_used_at) ON api_keys TO icmp_lookup;
CREATE POLICY lookup ON api_keys FOR SELECT TO icmp_lookup USING (true);
GRANT SELECT (business_id, session_key_id, token_hash, key_id, last_seen_at, expires_at) ON sessions TO icmp_lookup;
CREATE POLICY lookup ON sessions FOR SELECT TO icmp_lookup USING (true);
GRANT SELECT ON businesses TO icmp_lookup;
CREATE POLICY lookup ON businesses FOR SELECT TO icmp_lookup USING (true);
GRANT SELECT (business_id, agent_id, agent_name, created_at) ON agents TO icmp_lookup;
CREATE POLICY lookup ON agents FOR SELECT TO icmp_lookup USING (true);
GRANT SELECT (business_id, product_id, created_at) ON products TO icmp_lookup;
CREATE POLICY lookup ON products FOR SELECT TO icmp_lookup USING (true);
GRANT SELECT (business_id, service_id, name, created_at) ON services TO icmp_lookup;
CREATE POLICY lookup ON services FOR SELECT TO icmp_lookup USING (true);

CREATE FUNCTION find_api_key(hash bytea)
    RETURNS TABLE (business_id uuid, key_id uuid, is_stale boolean)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT k.business_id, k.key_id, coalesce(k.last_used_at < clock_timestamp() - interval '1 minute', true)
    FROM public.api_keys k
    WHERE k.key_hash = hash
      AND k.revoked_at IS NULL
      AND (k.expires_at IS NULL OR k.expires_at > clock_timestamp())
$$;

CREATE FUNCTION find_session(hash bytea, idle interval)
    RETURNS TABLE (business_id uuid, key_id uuid, session_key_id uuid, is_stale boolean)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT s.business_id, s.key_id, s.session_key_id, s.last_seen_at < clock_timestamp() - interval '1 minute'
    FROM public.sessions s JOIN public.api_keys k USING (business_id, key_id)
    WHERE s.token_hash = hash
      AND s.expires_at > clock_timestamp() AND s.last_seen_at > clock_timestamp() - idle
      AND k.revoked_at IS NULL
      AND (k.expires_at IS NULL OR k.expires_at > clock_timestamp())
$$;

CREATE FUNCTION known_businesses(ids uuid[]) RETURNS SETOF uuid
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT b.business_id FROM public.businesses b WHERE b.business_id = ANY (ids)
$$;

GRANT SELECT (business_id, stage_selection, data_extraction, response_generation) ON stages TO icmp_lookup;
CREATE POLICY lookup ON stages FOR SELECT TO icmp_lookup USING (true);
CREATE FUNCTION count_template_uses(id text) RETURNS bigint
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT count(*) FROM public.stages s
    WHERE id IN (s.stage_selection #>> '{prompt,template_id}', s.data_extraction #>> '{prompt,template_id}',
                 s.response_generation #>> '{prompt,template_id}')
$$;

CREATE FUNCTION list_businesses(before_at timestamptz, before_id uuid, row_limit integer, row_offset integer)
    RETURNS TABLE (business_id uuid, owner_id uuid, business_name text, business_description text, address text,
                   phone_number text, website text, settings jsonb, created_at timestamptz, updated_at timestamptz,
                   agent_list jsonb, product_list jsonb, service_list jsonb)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT b.business_id, b.owner_id, b.business_name, b.business_description, b.address, b.phone_number, b.website,
           b.settings, b.created_at, b.updated_at,
           (SELECT coalesce(jsonb_agg(a.agent_id ORDER BY a.created_at, a.agent_id), '[]')
            FROM public.agents a WHERE a.business_id = b.business_id),
           (SELECT coalesce(jsonb_agg(p.product_id ORDER BY p.created_at, p.product_id), '[]')
            FROM public.products p WHERE p.business_id = b.business_id),
           (SELECT coalesce(jsonb_agg(s.name ORDER BY s.created_at, s.service_id), '[]')
            FROM public.services s WHERE s.business_id = b.business_id)
    FROM public.businesses b
    WHERE before_at IS NULL OR (b.created_at, b.business_id) < (before_at, before_id)
    ORDER BY b.created_at DESC, b.business_id DESC LIMIT row_limit OFFSET row_offset
$$;

ALTER FUNCTION find_api_key(bytea) OWNER TO icmp_lookup;
ALTER FUNCTION find_session(bytea, interval) OWNER TO icmp_lookup;
ALTER FUNCTION known_businesses(uuid[]) OWNER TO icmp_lookup;
ALTER FUNCTION count_template_uses(text) OWNER TO icmp_lookup;
ALTER FUNCTION list_businesses(timestamptz, uuid, integer, integer) OWNER TO icmp_lookup;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA public FROM PUBLIC;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO icmp_app;
GRANT EXECUTE ON FUNCTION app_business() TO icmp_lookup;
REVOKE CREATE ON SCHEMA public FROM icmp_lookup;

-- The default prompts: what a stage uses that names no template of its own.
INSERT INTO global_templates (template_id, version, kind, text, input_variables) VALUES
('icmp.stage_selection', 1, 'stage_selection',
 'You read conversations of {{ business.business_name }} and decide which stage the conversation is in now. '
 'Judge by what the customer wants with the last message, in the light of what was said before.', '["business"]'),
('icmp.data_extraction', 1, 'data_extraction',
 'You collect what {{ business.business_name }} must know in the stage "{{ stage.stage_name }}": '
 '{{ stage.stage_description }}', '["business", "stage"]'),
('icmp.response_generation', 1, 'response_generation',
 'You answer customers of {{ business.business_name }}. The conversation is in the stage "{{ stage.stage_name }}": '
 '{{ stage.stage_description }} Be brief, friendly and concrete. Ask for what is still missing, one or two things '
 'at a time; never invent facts, prices, dates or promises.', '["business", "stage"]');
