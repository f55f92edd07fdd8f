"""What a campaign shows: a table, and one page for an auditor."""
