"""From what runs show to words, tables, figures and pages."""
