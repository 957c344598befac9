-- Runs once, when the database server starts for the first time: a database and a role for each
-- service, and no way from one into the other.
\set auth_password `cat /run/secrets/auth-db-password`
\set profile_password `cat /run/secrets/profile-db-password`

CREATE ROLE ostiary_auth LOGIN PASSWORD :'auth_password';
CREATE DATABASE ostiary_auth OWNER ostiary_auth;
REVOKE ALL ON DATABASE ostiary_auth FROM PUBLIC;

CREATE ROLE ostiary_profile LOGIN PASSWORD :'profile_password';
CREATE DATABASE ostiary_profile OWNER ostiary_profile;
REVOKE ALL ON DATABASE ostiary_profile FROM PUBLIC;
