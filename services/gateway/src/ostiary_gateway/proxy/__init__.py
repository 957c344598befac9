"""The data plane: clients' connections and the exchanges on them."""
