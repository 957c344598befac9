-- Runs once, at the first start of the database server: one database and one role for each service. No role can
-- connect to another service's database.
\set auth_password `cat /run/secrets/auth-db-password`
\set profile_password `cat /run/secrets/profile-db-password`

CREATE ROLE ostiary_auth LOGIN PASSWORD :'auth_password';
CREATE DATABASE ostiary_auth OWNER ostiary_auth;
REVOKE ALL ON DATABASE ostiary_auth FROM PUBLIC;

CREATE ROLE ostiary_profile LOGIN PASSWORD :'profile_password';
CREATE DATABASE ostiary_profile OWNER ostiary_profile;
REVOKE ALL ON DATABASE ostiary_profile FROM PUBLIC;
