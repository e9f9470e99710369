"""Methods as their papers write them, to be read in one sitting: what their compact forms are held to."""
