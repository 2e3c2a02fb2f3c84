"""From runs to what they show."""
