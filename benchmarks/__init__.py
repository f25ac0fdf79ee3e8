"""The numbers the project answers for, each printed by ``make bench``."""
