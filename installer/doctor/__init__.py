"""`llmsvc doctor`: what is wrong with an installation, why that matters, what mends it. Changes nothing."""
