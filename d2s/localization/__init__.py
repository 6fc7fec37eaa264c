"""PnP-RANSAC back ends behind one interface, and the Localizer."""
