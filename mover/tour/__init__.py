"""The first look: a lab to try mover against, and a demo that shows it all once."""
