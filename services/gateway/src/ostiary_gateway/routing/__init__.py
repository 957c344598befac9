"""The routes file: parsed, validated, checked for bypasses, and matched against requests."""
