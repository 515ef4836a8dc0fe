"""What aicl_fast is compared with: the same work, as one writes it who knows NumPy and torch well."""
